"""Looking names up: whose name servers hang holds up nobody else, nor the end of the process."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from push import names
from push.caller import Caller
from push.names import Names
from push.ring import VerdictKind
from tests.push.scripted import a_claim, an_endpoint
from tests.push.served import OK, saying, serving

Asked = dict[str, threading.Event]


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Names of which each hangs until its event is set; any other is this machine, by IPv4."""
    asked: Asked = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any) -> Any:
        if host.startswith("hangs-"):
            asked.setdefault(host, threading.Event()).wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answered")
        return real("127.0.0.1", *rest)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


async def test_names_that_hang_hold_up_no_other_name(hanging: Asked) -> None:
    async with serving(saying(OK)) as server, Caller() as caller:

        async def verdict(host: str) -> VerdictKind:
            endpoint = an_endpoint(url=f"http://{host}:{server.port}/ring")
            return (await caller.call(endpoint, a_claim(), time.time()))[0].kind

        held = [asyncio.create_task(verdict(f"hangs-{n}.example")) for n in range(40)]
        while len(hanging) < len(held):
            await asyncio.sleep(0.01)
        assert await verdict("push.acme.example") is VerdictKind.ACCEPTED
        assert not any(task.done() for task in held)
        for event in hanging.values():
            event.set()
        assert set(await asyncio.gather(*held)) == {VerdictKind.RETRY}


async def test_beyond_the_bound_a_name_waits_for_another_to_be_found(
    hanging: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "LOOKUPS", 1)
    resolver = Names()
    first = asyncio.create_task(resolver.resolve("hangs-1.example"))
    while not hanging:
        await asyncio.sleep(0.01)
    second = asyncio.create_task(resolver.resolve("push.acme.example", 443))
    await asyncio.sleep(0)
    first.cancel()  # nobody waits for it any more, but its thread still does
    await asyncio.wait([first])
    assert not second.done()
    hanging["hangs-1.example"].set()
    (found,) = await second
    assert (found["hostname"], found["host"]) == ("push.acme.example", "127.0.0.1")
    assert (found["port"], found["family"]) == (443, socket.AF_INET)


async def test_a_thread_that_cannot_start_is_no_name_found_and_takes_no_place(
    hanging: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "LOOKUPS", 1)
    resolver = Names()
    with monkeypatch.context() as patched:

        def start(self: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(OSError, match="no thread"):
            await resolver.resolve("push.acme.example")
    assert await resolver.resolve("push.acme.example")


ENDS = """
import asyncio, socket, threading
from push.names import Names

asked = threading.Event()

def hang(*_):
    asked.set()
    threading.Event().wait()

async def main():
    socket.getaddrinfo = hang
    lookup = asyncio.create_task(Names().resolve("hangs.example"))
    while not asked.is_set():
        await asyncio.sleep(0.01)
    lookup.cancel()

asyncio.run(main())
print("ended")
"""


def test_the_end_of_the_process_waits_for_no_name() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=60, check=True
    )
    assert (done.stdout, done.stderr) == ("ended\n", "")
