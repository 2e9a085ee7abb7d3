"""Serve until SIGTERM or SIGINT; docs/connect-your-backend.md shows how.

BACKEND_AUTH_TOKEN       what Ringback sends as authToken
BACKEND_SIGNING_SECRET   whsec_…; two with a space between while it is being changed
BACKEND_PORT             default 8090, on loopback: TLS is the business of the proxy in front
BACKEND_DIRECTORY        where the database and the VAPID key are kept; default: here

FCM_SERVICE_ACCOUNT      the service account's JSON file
APNS_KEY, APNS_KEY_ID, APNS_TEAM_ID, APNS_TOPIC
                         the .p8 file, what it is called, the team, the app's bundle id
VAPID_SUBJECT            mailto:… of who runs this, for the push services
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import signal
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import aiohttp
from aiohttp import web

from examples.customer_backend import tokens
from examples.customer_backend.apns import Apns, Key
from examples.customer_backend.app import CustomerBackend
from examples.customer_backend.fcm import Fcm
from examples.customer_backend.memory import Memory
from examples.customer_backend.sending import Sender
from examples.customer_backend.webpush import WebPush


async def main(environ: Mapping[str, str]) -> None:
    """Run the backend that `environ` describes. Raises `KeyError` for what is missing."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    directory = Path(environ.get("BACKEND_DIRECTORY", "."))
    memory = Memory(directory / "customer-backend.db")
    async with aiohttp.ClientSession() as http:
        browsers = WebPush(
            http, directory / "vapid.pem", environ.get("VAPID_SUBJECT", "mailto:me@acme.example")
        )
        senders: dict[type, Sender] = {tokens.Web: browsers}
        if "FCM_SERVICE_ACCOUNT" in environ:
            senders[tokens.Android] = Fcm(http, Path(environ["FCM_SERVICE_ACCOUNT"]))
        if "APNS_KEY" in environ:
            names = ("APNS_KEY_ID", "APNS_TEAM_ID", "APNS_TOPIC")
            senders[tokens.Ios] = Apns(
                Key(Path(environ["APNS_KEY"]), *(environ[name] for name in names))
            )
        backend = CustomerBackend(
            environ["BACKEND_AUTH_TOKEN"],
            _secrets(environ),
            memory,
            senders,
            browsers.public_key,
        )
        runner = web.AppRunner(backend.application(), access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", _port(environ)).start()
        ways = ", ".join(sorted(kind.__name__.lower() for kind in senders))
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        print(f"The customer backend is ready: {url}/ring, for {ways}; a page: {url}/", flush=True)
        await stop.wait()
        await runner.cleanup()
    memory.close()


def _port(environ: Mapping[str, str]) -> int:
    text = environ.get("BACKEND_PORT", "8090")
    if not text.isdecimal() or int(text) > 65_535:
        raise ValueError(f"BACKEND_PORT is {text!r}, and has to be 0 to 65535")
    return int(text)


def _secrets(environ: Mapping[str, str]) -> list[str]:
    secrets = environ["BACKEND_SIGNING_SECRET"].split()
    for secret in secrets:
        with suppress(ValueError):
            if 24 <= len(base64.b64decode(secret.removeprefix("whsec_") + "==")) <= 64:
                continue
        raise ValueError("BACKEND_SIGNING_SECRET has to be whsec_ and base64 of 24 to 64 bytes")
    return secrets


if __name__ == "__main__":
    if sys.argv[1:]:
        print(__doc__)
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else 2)
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("customer_backend").setLevel(logging.INFO)
    try:
        asyncio.run(main(os.environ))
    except KeyError as missing:
        sys.exit(f"{missing.args[0]} is not set; see: pydoc examples.customer_backend.__main__")
    except (OSError, ValueError, sqlite3.Error) as wrong:
        sys.exit(f"the customer backend cannot start: {wrong}")
