"""Campaigns: one message to many customers.

What operators ask over HTTP (api) and how the command asks it (cli). Whom a campaign is for and
what it says to each (audience), writing it down (loading), when it goes on (lanes), sending it
(sending), and what became of everybody (reports).
"""
