"""What both clients have: one link to the gateway, its life, and its frames as they came.

What each says, and what the frames mean to it, is left to `gateway.clientside.customer` and
`gateway.clientside.agent`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from gateway.clientside.link import Link
from gateway.clientside.told import Frame
from gateway.protocol import CloseCode


class Client:
    """A customer's or an agent's client, as far as they are the same."""

    _link: Link

    @property
    def connected(self) -> bool:
        """Whether there is a session now."""
        return self._link.connected

    @property
    def frames_seen(self) -> int:
        """How many frames have arrived: a mark for `wait_for`."""
        return self._link.seen

    async def start(self) -> None:
        """Connect, and wait for the welcome. After an end, come back and resume.

        Tries until it succeeds or must stay away (`ConnectionEnded`).
        """
        await self._link.start()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self, code: int = CloseCode.GOODBYE) -> None:
        """Close with `code` and stay away. 1000 is a clean leave; 1001 is a page reload."""
        await self._link.leave(code)

    async def bye(self) -> None:
        """Say bye, and let the server close."""
        await self._link.leave(CloseCode.GOODBYE, bye=True)

    async def abort(self) -> None:
        """Drop the TCP connection without a close frame, and stay away until `start`."""
        await self._link.abort()

    def drop(self) -> None:
        """Drop the TCP connection without a close frame, and come back by itself."""
        self._link.drop()

    async def ping(self) -> None:
        """Wait until the server has answered a ping, and so has read everything before it."""
        await self._link.ask({"type": "ping"})

    async def refresh(self, token: str) -> None:
        """Give the session a new token before the old one expires."""
        await self._link.refresh(token)

    async def wait_for(
        self,
        predicate: Callable[[Frame], object],
        timeout: float | None = 10.0,
        *,
        since: int = 0,
    ) -> Frame:
        """The first frame that fits, among the last 1,000 since mark `since` or to come.

        Raises `TimeoutError` after `timeout` seconds.
        """
        return await self._link.wait_for(predicate, timeout, since)
