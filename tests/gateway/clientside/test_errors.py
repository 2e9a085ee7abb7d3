"""The errors of the Python client."""

from __future__ import annotations

from gateway.clientside.errors import (
    ClientError,
    ConnectionEnded,
    NotUnderstood,
    OutboxFull,
    RequestFailed,
)


def test_the_end_of_a_client_names_what_ended_it() -> None:
    assert "4503" in str(ConnectionEnded(4503))
    assert "HTTP status 404" in str(ConnectionEnded(status=404))


def test_errors_tell_what_the_program_needs_in_fields() -> None:
    failed = RequestFailed("conflict", "this ref was used")
    assert (failed.code, failed.message, str(failed)) == (
        "conflict",
        "this ref was used",
        "conflict: this ref was used",
    )
    strange = NotUnderstood("sent")
    assert strange.frame_type == "sent"
    full = OutboxFull(2)
    assert full.bound == 2
    assert all(isinstance(error, ClientError) for error in (failed, strange, full))
