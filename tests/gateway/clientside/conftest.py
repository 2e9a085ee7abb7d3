"""The scripted server, running."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from websockets.asyncio.server import serve

from tests.gateway.clientside.scripted import Scripted


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    scripted = Scripted()
    async with serve(
        scripted.serve, "127.0.0.1", 0, process_request=scripted.admit, compression=None
    ) as scripted.server:
        yield scripted
