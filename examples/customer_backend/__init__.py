"""A customer backend to start from: the company's own server that Ringback asks to ring a phone.

It does what docs/push-contract.md asks of one, and uses nothing of Ringback's code:

    app.py       the request: who sends it, was it here before, is its number late; and the answer
    memory.py    what must survive a restart, in one SQLite file
    tokens.py    this company's device tokens, which Ringback stores and never reads
    sending.py   what the three ways to a phone have in common, and what became of a notification
    fcm.py       Android, by FCM's HTTP v1 API
    apns.py      iOS, by APNs over HTTP/2
    webpush.py   browsers, by Web Push: needs no account with anybody
    page/        a page that lets a browser be rung

    pip install 'ringback[backend]'
    python -m examples.customer_backend        # docs/connect-your-backend.md says how to set it up
"""
