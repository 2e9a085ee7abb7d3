"""The OAuth2 tokens in use: kept until shortly before their end, and renewed once for everybody.

Decides when a token is asked for. All who need one while the request for it is out wait for that
one request, so there are never two for the same client. Leaves the call to whoever gives `fetch`.
A token lives in memory only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from push.credentials import OAuth
from push.oauth import NoToken, Token

KEPT: Final = 1000  # clients; beyond it the one that came first is forgotten, and asked for anew
RENEW_EVERY: Final = 60.0  # seconds between two renewals because the backend refused the token

_log = structlog.get_logger("push.tokens")


@dataclass(slots=True)
class _Client:
    token: str | None = None
    until: float = 0.0
    renewed_at: float | None = None
    fetching: asyncio.Task[str] | None = None
    complained: str | None = None


class Tokens:
    """One token for each client. Use it within one running loop; `close` it at the end."""

    def __init__(self, fetch: Callable[[OAuth], Awaitable[Token]]) -> None:
        """`fetch` makes one request and returns, or raises `NoToken`, within a time of its own."""
        self._fetch = fetch
        self._clients: dict[OAuth, _Client] = {}

    async def token(self, oauth: OAuth) -> str:
        """Return a token that is good now. Raises `NoToken`."""
        client = self._clients.get(oauth)
        if client is None:
            client = self._clients[oauth] = _Client()
            self._forget()
        if client.token is not None and asyncio.get_running_loop().time() < client.until:
            return client.token
        return await self._fetched(oauth, client)

    async def renewed(self, oauth: OAuth, refused: str) -> str | None:
        """Return another token than the one that the backend refused; None if that is pointless.

        It is when a renewal for the same reason was less than a minute ago: then the credentials
        are at fault, not the token's age. Raises `NoToken`.
        """
        client = self._clients.get(oauth)
        if client is None:
            return await self.token(oauth)
        if client.fetching is None and client.token == refused:
            now = asyncio.get_running_loop().time()
            if client.renewed_at is not None and now - client.renewed_at < RENEW_EVERY:
                return None
            client.renewed_at = now
            client.token = None  # it is of no use, whatever becomes of the renewal
        elif client.fetching is None and client.token is not None:
            return client.token  # somebody else has renewed it meanwhile
        return await self._fetched(oauth, client)

    async def close(self) -> None:
        """End the requests that are out."""
        tasks = [client.fetching for client in self._clients.values() if client.fetching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _fetched(self, oauth: OAuth, client: _Client) -> str:
        fetching = client.fetching
        if fetching is None:
            fetching = asyncio.create_task(self._ask(oauth, client), name="push-token")
            fetching.add_done_callback(_seen)
            client.fetching = fetching
        await asyncio.wait([fetching])  # who gives up takes it from nobody else
        return fetching.result()

    async def _ask(self, oauth: OAuth, client: _Client) -> str:
        try:
            token = await self._fetch(oauth)
        except NoToken as error:
            self._complain(oauth, client, str(error))
            raise
        finally:
            client.fetching = None
        client.token = token.text
        client.until = asyncio.get_running_loop().time() + token.seconds
        client.complained = None
        return token.text

    def _complain(self, oauth: OAuth, client: _Client, problem: str) -> None:
        """Say once what the verdicts say in one word each."""
        if client.complained != problem:
            client.complained = problem
            _log.error("no OAuth2 token is to be had", client=oauth.client_id, problem=problem)

    def _forget(self) -> None:
        idle = (oauth for oauth, client in self._clients.items() if client.fetching is None)
        if len(self._clients) > KEPT and (first := next(idle, None)) is not None:
            del self._clients[first]


def _seen(task: asyncio.Task[str]) -> None:
    """Nobody may be waiting any more: an exception is not "never retrieved"."""
    if not task.cancelled():
        task.exception()
