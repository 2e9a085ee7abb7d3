"""Fixtures of the push tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from aioresponses import aioresponses

from push.caller import Caller


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    """A caller that is closed after the test."""
    async with Caller() as caller:
        yield caller


@pytest.fixture
def backend() -> Iterator[aioresponses]:
    """A customer backend that exists only between aiohttp's session and its connections."""
    with aioresponses() as mocked:
        yield mocked
