"""A network that can be pulled out: a namespace of its own behind a pair of virtual interfaces.

Nothing closes and nothing is reset when the link is down: packets are simply gone, as when a phone
enters a tunnel. Needs root and iproute2.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

_NETWORK = ip_address("10.213.0.0") + 4 * (os.getpid() % 2**14)  # others may test beside us
HERE, THERE = str(_NETWORK + 1), str(_NETWORK + 2)


class Namespace:
    """The client's side is `name`; the gateway listens on `HERE`."""

    def __init__(self) -> None:
        self.name = f"ringback-{os.getpid()}"
        self.wrapper = ("ip", "netns", "exec", self.name)
        self._link = f"rb{os.getpid()}"

    async def make(self) -> None:
        there = f"{self._link}c"
        await _ip("netns", "add", self.name)
        await _ip("link", "add", self._link, "type", "veth", "peer", "name", there)
        await _ip("link", "set", there, "netns", self.name)
        await _ip("addr", "add", f"{HERE}/30", "dev", self._link)
        await _ip("link", "set", self._link, "up")
        await self._inside("addr", "add", f"{THERE}/30", "dev", there)
        await self._inside("link", "set", there, "up")

    async def cut(self) -> None:
        """From now on packets are lost, both ways."""
        await self._inside("link", "set", f"{self._link}c", "down")

    async def mend(self) -> None:
        await self._inside("link", "set", f"{self._link}c", "up")

    async def remove(self) -> None:
        for words in (("link", "del", self._link), ("netns", "del", self.name)):
            with suppress(RuntimeError):
                await _ip(*words)

    async def _inside(self, *words: str) -> None:
        await _ip("-n", self.name, *words)


@asynccontextmanager
async def namespace() -> AsyncIterator[Namespace]:
    """A namespace that is connected."""
    it = Namespace()
    try:
        await it.make()
        yield it
    finally:
        await it.remove()


async def _ip(*words: str) -> None:
    child = await asyncio.create_subprocess_exec("ip", *words, stderr=asyncio.subprocess.PIPE)
    _, said = await child.communicate()
    if child.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {said.decode().strip()}")
