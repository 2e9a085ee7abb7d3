"""A request that the tenant wrote itself: path, headers and body as JSON with named fields.

Decides what a template may say, and reads it once, at start: whatever is wrong is an
`OptionError` with its place. What comes out of a template that was read is always JSON.

The options are the template::

    {"path": "/v2/devices/{token}", "headers": {"X-Customer": "{customer}"},
     "body": {"title": "{title?}", "badge": "{unread}", "line": "{title}: {text}"},
     "badge": {"body": {"badge": "{unread}"}}, "verdicts": {"404": "token_dead"}}

A text that is one field alone becomes the field's value, with its type: `"{unread}"` is a number.
`"{title?}"` leaves the whole member out when there is no title. Within a longer text a field is
written as text, nothing when there is none. Braces are doubled to stand for themselves. `badge`,
laid over the rest, is the silent ring; without it none is made.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import orjson

from push import verdicts
from push.adapters.form import (
    Adapter,
    OptionError,
    Request,
    Unwritable,
    collapse_id,
    priority,
    rfc3339,
    shown,
)
from push.credentials import HEADER_NAME, is_ours
from push.ring import BADGE, Endpoint, Ring, Target, Verdict, VerdictKind
from push.verdicts import Answer, Failure

DEPTH: Final = 32
_REQUEST: Final = ("path", "headers", "body")
_KEYS: Final = (*_REQUEST, "badge", "verdicts")

Value = str | int | bool | None
_Get = Callable[[Ring, Target, Endpoint], Value]

FIELDS: Final[Mapping[str, _Get]] = {
    "id": lambda ring, _, __: ring.id,
    "kind": lambda ring, _, __: ring.kind.value,
    "tenant": lambda _, __, endpoint: endpoint.tenant,
    "customer": lambda ring, _, __: ring.customer,
    "seq": lambda ring, _, __: ring.seq,
    "title": lambda ring, _, __: ring.title,
    "text": lambda ring, _, __: ring.text,
    "unread": lambda ring, _, __: ring.unread,
    "badge_seq": lambda ring, _, __: ring.badge_seq,
    "live": lambda ring, _, __: ring.live,
    "priority": lambda ring, _, __: priority(ring),
    "collapse_id": lambda ring, _, __: collapse_id(ring),
    "expires_at": lambda ring, _, __: rfc3339(ring.expires_at),
    "expires_epoch": lambda ring, _, __: int(ring.expires_at),
    "token": lambda _, target, __: target.token,
    "platform": lambda ring, _, __: ring.platform,
    "app": lambda ring, _, __: ring.app,
    "environment": lambda ring, _, __: ring.environment,
    "locale": lambda ring, _, __: ring.locale,
    "installation": lambda ring, _, __: ring.installation,
    "auth_token": lambda _, __, endpoint: endpoint.auth_token,
}


@dataclass(frozen=True, slots=True)
class _Field:
    """One field alone: its value; if `optional`, nothing at all when there is none."""

    name: str
    optional: bool


@dataclass(frozen=True, slots=True)
class _Line:
    """Text with fields in it."""

    parts: tuple[str | _Field, ...]


@dataclass(frozen=True, slots=True)
class _Template:
    """A template that was read: its strings are `_Line` or `_Field` where they have fields."""

    path: Any
    headers: dict[str, Any]
    body: Any


def make(options: Mapping[str, Any]) -> Adapter:
    """Return the adapter of one template. Raises `OptionError` with the place of what is wrong."""
    _refuse_unknown(options, _KEYS, "")
    shared = {name: options[name] for name in _REQUEST if name in options}
    loud = silent = _template(shared, "")
    if "badge" in options:
        over = options["badge"]
        if not isinstance(over, dict):
            raise OptionError("badge", f"is {shown(over)}", "an object with path, headers or body")
        _refuse_unknown(over, _REQUEST, "badge.")
        silent = _template({**shared, **over}, "badge.")
    meant = _meant(options.get("verdicts", {}))

    def request(ring: Ring, target: Target, endpoint: Endpoint) -> Request:
        values = {name: get(ring, target, endpoint) for name, get in FIELDS.items()}
        return _written(silent if ring.kind is BADGE else loud, values)

    def verdict(outcome: Answer | Failure, token: str, now: float) -> Verdict:
        plain = verdicts.judge(outcome, token, now)
        if isinstance(outcome, Failure) or plain.reason == verdicts.REJECTED:
            return plain
        kind = meant.get(outcome.status, plain.kind)
        return verdicts.verdict_of(outcome, kind, plain.reason, now)

    return Adapter(request, verdict, silent="badge" in options)


# Reading


def _refuse_unknown(given: Mapping[str, Any], known: tuple[str, ...], at: str) -> None:
    for name in given:
        if name not in known:
            raise OptionError(at + name, "is not a known option", f"one of {', '.join(known)}")


def _template(given: Mapping[str, Any], at: str) -> _Template:
    if "body" not in given:
        raise OptionError(f"{at}body", "is missing", "the body of the request, as JSON")
    path = None
    if "path" in given:
        path = _path(given["path"], f"{at}path")
    headers = given.get("headers", {})
    if not isinstance(headers, dict):
        raise OptionError(f"{at}headers", f"is {shown(headers)}", "an object of texts")
    if len({name.lower() for name in headers}) < len(headers):  # of two, one would be sent
        raise OptionError(f"{at}headers", "has a name twice, in two spellings", "each name once")
    return _Template(
        path=path,
        headers={name: _header(name, headers[name], f"{at}headers.{name}") for name in headers},
        body=_required(_node(given["body"], f"{at}body", DEPTH), f"{at}body"),
    )


def _path(given: object, place: str) -> Any:
    expected = 'a path such as "/v2/devices/{token}"'
    if not isinstance(given, str) or not given.startswith("/") or given.startswith("//"):
        raise OptionError(place, f"is {shown(given)}", expected)
    if re.search(r"[^!-~]|#", given) or _leads_elsewhere(given):
        raise OptionError(place, "has a character or a step that a path cannot have", expected)
    return _required(_text(given, place), place)


def _leads_elsewhere(path: str) -> bool:
    return not {".", ".."}.isdisjoint(path.partition("?")[0].split("/"))


def _header(name: str, given: object, place: str) -> Any:
    if HEADER_NAME.fullmatch(name) is None:
        raise OptionError(place, "is no name of a header", "letters, digits and -")
    if is_ours(name):
        raise OptionError(place, "is set by the gateway itself", "another header")
    if not isinstance(given, str) or re.search(r"[^ -~]", given):
        raise OptionError(place, f"is {shown(given)}", "a text of printable ASCII characters")
    return _text(given, place)


def _required(node: Any, place: str) -> Any:
    if isinstance(node, _Field) and node.optional:
        raise OptionError(place, "can be left out", "a field without ?")
    return node


def _node(given: object, place: str, depth: int) -> Any:
    if depth == 0:
        raise OptionError(place, "is too deep", f"at most {DEPTH} levels")
    if isinstance(given, str):
        return _text(given, place)
    if isinstance(given, list):
        return [_node(one, f"{place}[{n}]", depth - 1) for n, one in enumerate(given)]
    if isinstance(given, dict):
        return {
            _key(name, f"{place}.{name}"): _node(one, f"{place}.{name}", depth - 1)
            for name, one in given.items()
        }
    return given


def _key(name: str, place: str) -> str:
    node = _text(name, place)
    if not isinstance(node, str):
        raise OptionError(place, "has a field in a name", "fields in values only ({{ for a brace)")
    return node


def _text(given: str, place: str) -> Any:
    """Return a text without fields as it is, one that is a field as `_Field`, else a `_Line`."""
    parts: list[str | _Field] = []
    for plain, double, name in re.findall(r"([^{}]+)|(\{\{|\}\})|(\{[^{}]*\}|[{}])", given):
        if name:
            parts.append(_field(name, place))
        else:
            parts.append(plain or double[0])
    if len(parts) == 1 and isinstance(parts[0], _Field):
        return parts[0]
    for part in parts:
        if isinstance(part, _Field) and part.optional:
            expected = f"{{{part.name}}}, which is empty when there is none"
            raise OptionError(place, f"has {{{part.name}?}} within a longer text", expected)
    if any(isinstance(part, _Field) for part in parts):
        return _Line(tuple(parts))
    return "".join(str(part) for part in parts)


def _field(written: str, place: str) -> _Field:
    if len(written) == 1:
        raise OptionError(place, f'has a single "{written}"', "{field}, or {{ or }} for a brace")
    name = written[1:-1].removesuffix("?")
    if name not in FIELDS:
        close = difflib.get_close_matches(name, FIELDS, n=1)
        expected = f"{{{close[0]}}}" if close else f"one of {', '.join(FIELDS)}"
        raise OptionError(place, f"has {shown(written)[1:-1]}, which is no field", expected)
    return _Field(name, written.endswith("?}"))


def _meant(given: object) -> dict[int, VerdictKind]:
    expected = 'statuses with verdicts, such as {"404": "token_dead"}'
    if not isinstance(given, dict):
        raise OptionError("verdicts", f"is {shown(given)}", expected)
    meant: dict[int, VerdictKind] = {}
    for status, name in given.items():
        if re.fullmatch(r"[1-5]\d\d", status, re.ASCII) is None:
            raise OptionError(f"verdicts.{status}", "is no HTTP status", expected)
        if name not in [kind.value for kind in VerdictKind]:
            words = ", ".join(VerdictKind)
            raise OptionError(f"verdicts.{status}", f"is {shown(name)}", f"one of {words}")
        meant[int(status)] = VerdictKind(name)
    return meant


# Writing

_Values = Mapping[str, Value]
_LEFT_OUT: Final = object()


def _written(template: _Template, values: _Values) -> Request:
    headers = {"Content-Type": "application/json"}
    for name, node in template.headers.items():
        if isinstance(node, _Field) and node.optional and values[node.name] is None:
            continue
        headers = {k: v for k, v in headers.items() if k.lower() != name.lower()}
        headers[name] = _joined(node, values, _ascii)
    path = None if template.path is None else _joined(template.path, values, _segment)
    if path is not None and _leads_elsewhere(path):
        raise Unwritable("a field makes a path that leads elsewhere")
    return Request(headers, orjson.dumps(_filled(template.body, values)), path)


def _filled(node: Any, values: _Values) -> Any:
    if isinstance(node, _Field):
        value = values[node.name]
        return _LEFT_OUT if value is None and node.optional else value
    if isinstance(node, _Line):
        return _joined(node, values, _plain)
    if isinstance(node, dict):
        filled = ((name, _filled(inner, values)) for name, inner in node.items())
        return {name: value for name, value in filled if value is not _LEFT_OUT}
    if isinstance(node, list):
        return [v for v in (_filled(inner, values) for inner in node) if v is not _LEFT_OUT]
    return node


def _joined(node: Any, values: _Values, encode: Callable[[str], str]) -> str:
    parts = node.parts if isinstance(node, _Line) else (node,)
    return "".join(
        part if isinstance(part, str) else encode(_as_text(values[part.name])) for part in parts
    )


def _as_text(value: Value) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(text: str) -> str:
    return text


def _segment(text: str) -> str:
    if not text:
        raise Unwritable("a field in the path is empty")
    return quote(text, safe="")


_PRINTABLE: Final = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


def _ascii(text: str) -> str:
    return quote(text, safe=_PRINTABLE)
