"""The configuration.

What may be written: the sections, a tenant's push section (push, credentials, content) and their
values. How it is read: the names of settings, the environment, reading; without a file
(development); anew while the gateway runs (reload). And what `ringback init` writes (starter).
"""
