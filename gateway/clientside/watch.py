"""How a program hears of what arrives: it waits for it, or is called back.

`Watch` is for those who wait; `call` is for callbacks, which may fail and change nothing else. What
arrives, and when nothing will any more, is told by whoever owns the watch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from gateway.clientside.comeback import End
from gateway.clientside.errors import ClientError, ConnectionEnded

T = TypeVar("T")


class Watch(Generic[T]):
    """Those who wait for something to arrive."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[T], Callable[[T], object]] = {}
        self.ended: End | None = None

    def add(self, item: T) -> None:
        for future, predicate in self._waiting.items():
            try:
                if not future.done() and predicate(item):
                    future.set_result(item)
            except Exception as error:  # the predicate's: its owner's to see
                future.set_exception(error)

    def end(self, end: End | None) -> None:
        """Nothing will arrive any more (None: it will again)."""
        self.ended = end
        if end is not None:
            for future in self._waiting:
                fail(future, ConnectionEnded(*end))

    async def wait(
        self, predicate: Callable[[T], object], past: Iterable[T], timeout: float | None
    ) -> T:
        for item in past:
            if predicate(item):
                return item
        if self.ended is not None:
            raise ConnectionEnded(*self.ended)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting[future] = predicate
        try:
            async with asyncio.timeout(timeout):
                return await future
        finally:
            del self._waiting[future]


def call(callback: Callable[[T], object] | None, argument: T) -> None:
    """Call back; what the callback raises goes to the loop's exception handler."""
    if callback is not None:
        try:
            callback(argument)
        except Exception as error:
            report("a callback of the client failed", error)


def report(what: str, error: Exception) -> None:
    asyncio.get_running_loop().call_exception_handler({"message": what, "exception": error})


def fail(future: asyncio.Future[Any], error: ClientError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # whoever was to wait may be gone: no complaint from the loop then
