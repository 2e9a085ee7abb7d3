"""The contract kit: what a company tests its backend with, and what it tests against.

`ringback backend` (backend, behaviours), `ringback push test` (trial) and `ringback push conform`
(conformance, checks). It uses the adapters, the signing and the caller that ring for real, so that
what it shows is what happens; nothing of the gateway needs it.
"""
