"""What HTTP calls share: how a request's query and headers are read, and how it is answered.

Decides the form of an answer, and of an error: an RFC 9457 problem document. What a call does, and
who may make it, is in `gateway.http.api` and its like.
"""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from gateway import decoding, protocol
from gateway.protocol import ErrorCode, FrameError

PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


# Requests


def integer(request: web.Request, name: str, least: int, most: int) -> int | None:
    """A number of the query. Raises `FrameError`."""
    text = request.query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 17 and least <= int(text) <= most):
        raise FrameError(ErrorCode.BAD_FRAME, f"{name}: give a number from {least} to {most}")
    return int(text)


def page_size(request: web.Request) -> int:
    """How many of a list are asked for. Raises `FrameError`."""
    return integer(request, "limit", 1, protocol.HISTORY_MAX) or protocol.HISTORY_DEFAULT


def idempotency_key(request: web.Request) -> str | None:
    """The header of that name. Raises `FrameError`."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not 1 <= len(key) <= protocol.REF_CHARS:
        raise FrameError(
            ErrorCode.TOO_LARGE if key else ErrorCode.BAD_FRAME,
            f"Idempotency-Key: give 1 to {protocol.REF_CHARS} characters",
        )
    try:
        key.encode()
    except UnicodeEncodeError:  # what is not UTF-8 comes as halves of surrogate pairs
        raise FrameError(ErrorCode.BAD_FRAME, "Idempotency-Key: not UTF-8") from None
    decoding.check_plain(key, "Idempotency-Key", None)
    return key


# Answers


def problem(error: FrameError, status: int | None = None, **headers: str) -> web.Response:
    status = status or protocol.HTTP_STATUS[error.code]
    told: dict[str, Any] = {
        "type": "about:blank",
        "title": error.code.value.replace("_", " "),
        "status": status,
        "detail": error.message,
        "code": error.code.value,
    }
    if error.retry_after is not None:
        told["retry_after"] = round(error.retry_after, 3)
        headers["Retry-After"] = str(int(error.retry_after) + 1)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        body=orjson.dumps(told),
        status=status,
        headers=PRIVATE | headers,
        content_type="application/problem+json",
    )


def as_json(body: Any, status: int = 200) -> web.Response:
    """An answer, for who asked alone."""
    raw = orjson.dumps(body)
    return web.Response(body=raw, status=status, headers=PRIVATE, content_type="application/json")
