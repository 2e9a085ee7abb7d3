"""The connections of `gateway.wire` are tested on asyncio's own loop and on uvloop, if it is there.

Where each calls a protocol back, and what it does of a closed transport, differs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib.util import find_spec

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
