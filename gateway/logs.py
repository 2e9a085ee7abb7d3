"""Structured logs: one event a line, as text for people or JSON for machines.

Events carry names and numbers. No token, secret or message text is ever passed to a log (I10).
"""

from __future__ import annotations

import io
import logging
import sys
from contextlib import suppress
from typing import TextIO, cast

import structlog

from gateway.config import Log, LogFormat


def set_up(log: Log) -> None:
    """Send structlog's and the standard library's records to stderr in one format."""
    stream = _Forgiving(sys.stderr)
    level = logging.getLevelNamesMapping()[log.level.value.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor
    if log.format is LogFormat.JSON:
        shared.append(structlog.processors.format_exc_info)
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            # The default shows the values of local variables: tokens and texts among them.
            exception_formatter=structlog.dev.plain_traceback,
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, stream)),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processor=renderer)
    # A peer that speaks broken HTTP is the peer's affair, and no traceback in our log.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    logging.basicConfig(level=max(level, logging.WARNING), handlers=[handler], force=True)


class _Forgiving(io.TextIOBase):
    """The log's stream. What cannot be written is lost: a full disk or a reader that has gone must
    not undo, stop or hold up what was to be told of.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` is None where it was closed before the start."""
        self._stream = stream

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with suppress(OSError, ValueError):
                self._stream.flush()
