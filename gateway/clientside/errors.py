"""The errors that the client raises.

    ClientError
    ├── RequestFailed(code, message)       the server refused this request for good
    ├── ConnectionEnded(code, status)      the client stays away; every waiting call raises it
    ├── OutboxFull(bound)                  too many requests wait already
    └── NotUnderstood(frame_type)          an answer is not as the protocol says

Each carries in fields what a program needs; when it is raised is left to the other parts.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of every error that the client raises."""


class RequestFailed(ClientError):
    """The server refused a request for good, with `code` and its own explanation."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


class ConnectionEnded(ClientError):
    """The client stays away: close code `code`, or HTTP `status` if the handshake was refused.

    `code` is also that of the client's own close; both are None after `abort`.
    """

    def __init__(self, code: int | None = None, status: int | None = None) -> None:
        why = f"HTTP status {status}" if status is not None else f"close code {code}"
        super().__init__(f"the client stays away after {why}")
        self.code = code
        self.status = status


class OutboxFull(ClientError):
    """`bound` requests wait for their answer already."""

    def __init__(self, bound: int) -> None:
        super().__init__(f"{bound} requests are waiting already")
        self.bound = bound


class NotUnderstood(ClientError):
    """The answer to a request lacks something, or a field has the wrong type."""

    def __init__(self, frame_type: str) -> None:
        super().__init__(f"the server's {frame_type} frame is not as the protocol says")
        self.frame_type = frame_type
