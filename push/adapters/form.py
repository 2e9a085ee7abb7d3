"""What an adapter is: one agreed form of the request to a customer backend, and of its answer.

Decides the shapes that adapters share. Leaves to each adapter the form itself, to
`push.adapters` which adapters there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Final, TypeVar, get_args

import msgspec
import orjson
from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields

from push import verdicts
from push.ring import BADGE, PROACTIVE, Endpoint, PushError, Ring, Target, Verdict
from push.verdicts import Answer, Failure


class OptionError(PushError):
    """A tenant's `options` are not what its adapter wants.

    `place` is the path of the option, "" for all of them; the text never quotes a long value.
    """

    def __init__(self, place: str, problem: str, expected: str) -> None:
        super().__init__(f"{place or 'options'}: {problem}; expected {expected}")
        self.place = place
        self.problem = problem
        self.expected = expected


class Unwritable(PushError):
    """This ring cannot be written in the tenant's form, now or later: it is refused."""


class Request(Struct, frozen=True):
    """What is POSTed to the customer backend, before signing. Never shown: it holds the token.

    `path` (with a query, percent-encoded) takes the place of the endpoint's own.
    """

    headers: Mapping[str, str]
    body: bytes
    path: str | None = None

    def __repr__(self) -> str:
        """Leave everything out."""
        return "Request()"


@dataclass(frozen=True, slots=True)
class Adapter:
    """One tenant's form: how a ring is written, and how the answer to it is read.

    Both are pure: the same ring under the same settings gives the same bytes on every attempt.
    `request` may raise `Unwritable`. `silent` tells whether a ring that only corrects the number
    on the icon can be written; without it none are made.
    """

    request: Callable[[Ring, Target, Endpoint], Request]
    verdict: Callable[[Answer | Failure, str, float], Verdict] = verdicts.judge
    silent: bool = True


Make = Callable[[Mapping[str, Any]], Adapter]
"""From a tenant's `options` to its adapter; raises `OptionError`."""


def json_request(body: object) -> Request:
    """Write `body` as compact JSON."""
    return Request({"Content-Type": "application/json"}, orjson.dumps(body))


LATEST: Final = 253_402_300_799.0  # the end of the year 9999, the last that RFC 3339 can write


def rfc3339(epoch: float) -> str:
    """Write epoch seconds as UTC with milliseconds, as everywhere on the wire."""
    moment = datetime.fromtimestamp(min(epoch, LATEST), UTC)
    # With microseconds, unless there are none. isoformat would cost a push 14,000 instructions.
    text: str = msgspec.to_builtins(moment)
    return f"{text[:23]}Z" if moment.microsecond else f"{text[:19]}.000Z"


def known(values: dict[str, Any]) -> dict[str, Any]:
    """Return what is not None, in the same order."""
    if None not in values.values():
        return values
    return {name: value for name, value in values.items() if value is not None}


def priority(ring: Ring) -> str:
    """Return "high" for what should be shown at once, "normal" for what makes no noise."""
    return "normal" if ring.kind is BADGE else "high"


def collapse_id(ring: Ring) -> str:
    """Return what a newer notification replaces an older one by, on one device; ASCII, short.

    A chat shows one notification, its newest. Proactive messages stand beside each other.
    """
    return ring.id if ring.kind is PROACTIVE else f"ringback-{ring.kind}"


Words = Annotated[str, Meta(min_length=1, max_length=256, description="a text that is not empty")]
"""What an option is that may say anything."""
_S = TypeVar("_S", bound=Struct)


def no_options(given: Mapping[str, Any]) -> None:
    """Raise `OptionError` unless `given` is empty."""
    for name in given:
        raise OptionError(name, "is given, but this adapter has no options", "no options")


def options_as(kind: type[_S], given: Mapping[str, Any]) -> _S:
    """Read `given` as a struct whose fields are `Annotated` with a described `msgspec.Meta`.

    Raises `OptionError` with the name, what is wrong and what would be right.
    """
    infos = {info.encode_name: info for info in fields(kind)}
    values: dict[str, Any] = {}
    for name in given:
        if name not in infos:
            raise OptionError(name, "is not a known option", f"one of {', '.join(infos)}")
    for name, info in infos.items():
        expected = get_args(info.type)[1].description
        if name not in given:
            if info.default is NODEFAULT:
                raise OptionError(name, "is missing", expected)
            continue
        try:
            values[info.name] = msgspec.convert(given[name], info.type)
        except msgspec.ValidationError:
            raise OptionError(name, f"is {shown(given[name])}", expected) from None
    return kind(**values)


def shown(value: object) -> str:
    """Return a value as errors quote it: as JSON, and not at length."""
    text = orjson.dumps(value).decode()
    return text if len(text) <= 60 else text[:57] + "..."
