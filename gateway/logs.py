"""Structured logs: one event a line, as text for people or JSON for machines.

Events carry names and numbers. No token, secret or message text is ever passed to a log (I10).
"""

from __future__ import annotations

import io
import logging
import queue
import sys
import warnings
from contextlib import suppress
from threading import Thread
from typing import TextIO, cast

import structlog
from aiohttp import BadContentDispositionHeader, BadContentDispositionParam

from gateway.config.sections import Log, LogFormat

WAITING = 5_000  # lines (bound, I9)
LAST = 1.0  # seconds for what still waits at the end


def set_up(log: Log) -> io.TextIOBase:
    """Send structlog's and the standard library's records to stderr in one format, until what is
    returned is closed."""
    stream = _Apart(sys.stderr)
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
    logging.captureWarnings(True)  # else they would wait for stderr
    for theirs in (BadContentDispositionHeader, BadContentDispositionParam):
        warnings.simplefilter("ignore", theirs)  # quotes what a peer sent, who is told of it
    return stream


class _Apart(io.TextIOBase):
    """The log's stream: a thread of its own writes it, so that nobody waits for who reads it.

    What cannot be written, and what comes while too much waits to be, is lost: a full disk, or a
    reader that stands still or has gone, must not undo, stop or hold up what was to be told of.
    """

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` is None where it was closed before the start."""
        self._stream = stream
        # Not `Queue`: a collection within its lock may log (a task that nobody awaited), and wait.
        self._lines = queue.SimpleQueue[str | None]()
        self._writer: Thread | None = None
        if stream is not None:
            self._writer = Thread(target=_write_all, args=(self._lines, _own(stream)), daemon=True)
            self._writer.start()

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> int:
        if self._writer is not None and self._lines.qsize() < WAITING:
            self._lines.put(text)
        return len(text)

    def flush(self) -> None:
        """The writer does after each line; and after the end, nothing is to be done."""

    def close(self) -> None:
        """Lose what is written from now on, and wait a moment until what came before is out."""
        logging.captureWarnings(False)
        writer, self._writer = self._writer, None
        if writer is not None:
            self._lines.put(None)
            writer.join(LAST)
        super().close()


def _own(stream: TextIO) -> TextIO:
    """A file object of our own where `stream` writes: at the end the interpreter flushes its own,
    and cannot while a thread stands still in there."""
    try:
        descriptor = stream.fileno()
    except OSError:
        return stream
    errors, encoding = stream.errors, stream.encoding
    return open(descriptor, "w", encoding=encoding, errors=errors, closefd=False)


def _write_all(lines: queue.SimpleQueue[str | None], stream: TextIO) -> None:
    for text in iter(lines.get, None):
        with suppress(OSError, ValueError):
            stream.write(text)
            stream.flush()
