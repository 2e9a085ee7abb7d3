"""What these tests share: the loops that they run on, and that they leave nothing behind.

The connections of `gateway.wire` are tested on asyncio's own loop and on uvloop, if it is there:
where each calls a protocol back, and what it does of a closed transport, differs.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.util import find_spec
from typing import Any

import pytest

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
BOTH = dict(LOOPS)
if find_spec("uvloop") is not None:
    import uvloop

    BOTH["uvloop"] = uvloop.new_event_loop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return BOTH if item.path.name == "test_wire.py" else LOOPS


@pytest.fixture
async def nothing_left_behind() -> AsyncIterator[None]:
    """A test that uses it ends with no task left and no complaint of the loop."""
    loop = asyncio.get_running_loop()
    complaints: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    gc.collect()
    assert complaints == []
