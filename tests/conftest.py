"""What all tests share: a test that waits for what never comes fails, and says where it waited; and
one that tells a secret fails (`tests.canary`).

pytest-timeout alone does not do: its exception may be raised in a callback of the event loop, which
swallows it. It stays as the last resort, for what blocks the loop.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import linecache
import traceback
from asyncio import constants
from collections.abc import Callable, Generator
from typing import Any

import pytest
from hypothesis import settings

from tests import canary

SECONDS = 60.0
FRAMES = 4
"""Asyncio's debug mode notes where each task, future and handle was made: so much of the stack.

The C futures would note all of it, pytest's own part too: half of what such a test costs. What the
lines say is read when a stack is shown, and no file is looked at again each time: none changes.
"""


def pytest_configure() -> None:
    constants.__dict__["DEBUG_STACK_DEPTH"] = FRAMES
    traceback.extract_stack.__defaults__ = (None, FRAMES)
    extracting = traceback.StackSummary.extract.__kwdefaults__
    assert extracting is not None
    extracting["lookup_lines"] = False
    linecache.checkcache = lambda filename=None: None
    canary.watch()
    settings.register_profile("no deadline", deadline=None)  # a slow machine is no failure
    settings.load_profile("no deadline")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A test that told a secret fails (`tests.canary`)."""
    report = yield
    for name, text in report.sections:
        if name.startswith("Captured"):
            canary.CANARY.search(f"what was written ({name})", text)
    if call.when == "teardown":
        found = canary.CANARY.end()
        if found and not report.failed:
            report.outcome = "failed"
            report.longrepr = f"told to who should not know (I10): {', '.join(found)}"
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            item.obj = _within(0.9 * marker.args[0] if marker else SECONDS, item.obj)


def pytest_collection_finish() -> None:
    """What all tests have in common stays until the end: the garbage collector need not go through
    it again, least of all where a test asks it whether something is left behind."""
    gc.freeze()


def _within(seconds: float, test: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(seconds):
            await test(*args, **kwargs)

    return bounded
