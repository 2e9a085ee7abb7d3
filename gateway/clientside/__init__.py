"""The parts of the Python client; programs import `gateway.client`.

Decided without I/O: what the server told (told), what is held (timeline), what waits to be sent
(outbox, marks), whether to come back (comeback), what a notification means to the app
(notifications). On a socket: the link, its token (tokens), and who waits for what arrives (watch).
Over it: what customer and agent do (base, customer, agent). The gateway needs none of it.
"""
