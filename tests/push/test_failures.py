"""Which failure a broken call was, where no server that Python has says it."""

from __future__ import annotations

import ssl

import pytest

from push.failures import failure_of, forget_frames, where
from push.verdicts import Failure


@pytest.mark.parametrize(
    ("reason", "failure"),
    [
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", Failure.CLIENT_CERTIFICATE),
        ("SSLV3_ALERT_BAD_CERTIFICATE", Failure.CLIENT_CERTIFICATE),
        ("TLSV1_ALERT_UNKNOWN_CA", Failure.CLIENT_CERTIFICATE),
        ("TLSV1_ALERT_PROTOCOL_VERSION", Failure.TLS),
        ("CERTIFICATE_VERIFY_FAILED", Failure.TLS),  # ours of theirs
    ],
)
def test_an_alert_about_a_certificate_is_about_ours(reason: str, failure: Failure) -> None:
    error = ssl.SSLError(1, f"[SSL: {reason}] (_ssl.c:2580)")
    error.reason = reason
    broken = ConnectionError("the call broke")
    broken.__cause__ = error
    assert failure_of(broken) is failure
    assert failure_of(error) is failure


def test_of_an_error_and_of_what_it_came_from_no_frames_are_kept() -> None:
    def fail() -> None:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                raise ValueError("while it was handled")  # noqa: B904
        except ValueError as error:
            raise OSError("because of it") from error

    with pytest.raises(OSError, match="because of it") as caught:
        fail()
    last = caught.value
    chain = [last, last.__cause__, last.__cause__ and last.__cause__.__context__]
    assert [type(error) for error in chain] == [OSError, ValueError, KeyError]
    forget_frames(last)
    assert [error and error.__traceback__ for error in chain] == [None] * 3


def test_a_fault_is_told_by_the_innermost_places() -> None:
    def fall(deep: int) -> None:
        if deep == 0:
            strike()
        fall(deep - 1)

    def strike() -> None:
        raise ZeroDivisionError("customer c-42")

    with pytest.raises(ZeroDivisionError) as caught:
        fall(5)
    told = where(caught.value)
    assert [place.split(" in ")[1] for place in told.split(" < ")] == ["strike", "fall", "fall"]
    assert "c-42" not in told
