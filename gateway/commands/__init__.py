"""The command `ringback`.

Its words (cli), the gateway itself until it is to stop (serving), keys, and dead letters; what
commands share: options and failures (common), a message's story in print (printing), and calls to a
running gateway (remote). Commands of campaigns and of the contract kit are with these.
"""
