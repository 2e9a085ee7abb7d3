"""Whom a campaign is for and what it says to each: templates, and the lines of an audience.

Decides what a good template, a good file and a good recipient are, and what exactly is wrong with
any other, by its line. A refusal names the place and what would be right, never what was there: it
may be somebody's name. Leaves to others: where the bytes come from, and what becomes of them.

A template is text with fields in braces, `Hello {name}`; `{{` and `}}` are braces. `{customer}` is
always there, other fields come from the recipient's line.

An audience is CSV (RFC 4180; the first line names the columns, one of them `customer`) or JSON
lines (each an id as a string, or an object with `customer` and fields).
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec
import orjson

from gateway import decoding, protocol
from gateway.protocol import ErrorCode, FrameError, Limits

LINE_BYTES = 65_536  # of one line, with all its columns
CUSTOMER = "customer"

_FIELD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class BadRecipient(Exception):
    """A recipient who cannot be sent to. `problem` says what would be right."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


# Templates


class Template(NamedTuple):
    """Text with fields: `parts` are text and, at odd places, names of fields.

    Beside them, for a judgement that costs no more than a line is long, however long what it says
    would be: `own`, the text without its fields, and how often each of those is in it.
    """

    parts: tuple[str, ...]
    own: str
    fields: Mapping[str, int]

    def size(self, values: Mapping[str, str]) -> int:
        """How many characters it would have."""
        return len(self.own) + sum(n * len(values[field]) for field, n in self.fields.items())

    def is_blank(self, values: Mapping[str, str]) -> bool:
        """Whether there would be nothing to read."""
        return not (self.own.strip() or any(values[field].strip() for field in self.fields))

    def render(self, values: Mapping[str, str]) -> str:
        return "".join(values[p] if at % 2 else p for at, p in enumerate(self.parts))


def template(text: str, name: str) -> Template:
    """`text` as a template; `name` is what an error calls it. Raises `FrameError`."""
    parts = [""]
    at = 0
    for piece in _PIECE.finditer(text):
        parts[-1] += text[at : piece.start()]
        at = piece.end()
        if piece[0] in ("{{", "}}"):
            parts[-1] += piece[0][0]
            continue
        field = piece[1]
        if field is None or not _FIELD.fullmatch(field):
            raise FrameError(
                ErrorCode.BAD_FRAME,
                f"{name}: at character {piece.start() + 1}: a field is written {{name}}, with"
                f" letters, digits and _ . - alone; for a brace write {{{{ or }}}}",
            )
        parts += [field, ""]
    parts[-1] += text[at:]
    return Template(tuple(parts), "".join(parts[::2]), Counter(parts[1::2]))


class Words(NamedTuple):
    """What a campaign says, before it is known to whom."""

    text: Template
    title: Template | None

    @property
    def fields(self) -> frozenset[str]:
        """What a recipient must have beside an id."""
        title = self.title.fields if self.title is not None else {}
        return frozenset({*self.text.fields, *title} - {CUSTOMER})

    def to(self, customer: str, fields: str | None) -> tuple[str, str | None]:
        """Text and title for one recipient; `fields` as an `Entry` has them."""
        values: dict[str, str] = {CUSTOMER: customer}
        if fields is not None:
            values |= orjson.loads(fields)
        title = self.title.render(values) if self.title is not None else None
        return self.text.render(values), title


def words(text: str, title: str | None) -> Words:
    """The templates of a campaign. Raises `FrameError`."""
    return Words(template(text, "text"), None if title is None else template(title, "title"))


# One recipient


class Entry(NamedTuple):
    """A recipient who can be sent to: `fields` is JSON text, of what the templates need."""

    customer: str
    fields: str | None


def entry(value: Any, said: Words, limits: Limits) -> Entry:
    """A recipient as a line or a list has it. Raises `BadRecipient`."""
    told = value if isinstance(value, Mapping) else {CUSTOMER: value}
    customer = told.get(CUSTOMER)
    if not isinstance(customer, str) or not customer:
        raise BadRecipient(f"customer: must be a string of 1 to {protocol.ID_CHARS} characters")
    try:
        decoding.check_id(customer, CUSTOMER)
    except FrameError as error:
        raise BadRecipient(error.message) from None
    fields = {name: _plain(told.get(name), name) for name in sorted(said.fields)}
    found = Entry(customer, orjson.dumps(fields).decode() if fields else None)
    _check_words(said, {CUSTOMER: customer, **fields}, limits)
    return found


def _plain(value: Any, name: str) -> str:
    if isinstance(value, str):
        if "\x00" in value:
            raise BadRecipient(f"{name}: must not contain NUL")
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not -(2**63) < value < 2**64:  # a longer one was rounded as it was read
            raise BadRecipient(f"{name}: numbers must fit in 64 bits; give it as a string")
        return str(value)
    missing = "missing; " if value is None else ""
    raise BadRecipient(f"{name}: {missing}must be a string or a number")


def _check_words(said: Words, values: Mapping[str, str], limits: Limits) -> None:
    if said.text.is_blank(values):
        raise BadRecipient("text: would be blank")
    size = said.text.size(values)
    if size > limits.text_chars:
        raise BadRecipient(
            f"text: would have {size} characters, at most {limits.text_chars} are allowed"
        )
    size = 1 if said.title is None else said.title.size(values)
    if not 1 <= size <= protocol.TITLE_CHARS:
        raise BadRecipient(
            f"title: would have {size} characters, 1 to {protocol.TITLE_CHARS} are allowed"
        )


# Files


class Format(StrEnum):
    """The formats of a file, by the content types that say so."""

    CSV = "text/csv"
    JSON_LINES = "application/jsonl"


FORMATS: Mapping[str, Format] = {
    "text/csv": Format.CSV,
    "application/jsonl": Format.JSON_LINES,
    "application/x-ndjson": Format.JSON_LINES,
    "application/x-jsonlines": Format.JSON_LINES,
}


ENDINGS: Mapping[str, Format] = {
    ".csv": Format.CSV,
    ".jsonl": Format.JSON_LINES,
    ".ndjson": Format.JSON_LINES,
}
"""The same by how a file is called."""


class Line(NamedTuple):
    """What a line says, or what is wrong with it. Lines count from 1."""

    number: int
    value: Any = None
    problem: str | None = None


class File:
    """Bytes of a file, as they come, to its lines. Holds one line at the most.

    `columns` are those of a CSV file, once its first line has come.
    """

    def __init__(self, format: Format) -> None:
        self.format = format
        self.columns: tuple[str, ...] | None = None
        self._rest = b""
        self._quoted = b""
        self._number = 0
        self._first = 1
        self._separator = ","

    def feed(self, data: bytes) -> list[Line]:
        """The lines that `data` completes. Raises `FrameError` if the file is of no use."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        found = [line for one in whole for line in self._line(one)]
        coming = self._first if self._quoted else self._number + 1
        self._check_bound(len(self._rest) + len(self._quoted), coming)
        return found

    def end(self) -> list[Line]:
        """The last line, if it was not ended. Raises `FrameError` as `feed` does."""
        found = list(self._line(self._rest)) if self._rest else []
        self._rest = b""
        if self._quoted:
            self._refuse(self._first, 'a quote (") is opened and never closed')
        if self.format is Format.CSV and self.columns is None:
            self._refuse(1, "the file is empty; the first line names the columns")
        return found

    def _line(self, line: bytes) -> Iterable[Line]:
        self._number += 1
        if not self._quoted:
            self._first = self._number
        self._check_bound(len(line) + len(self._quoted), self._first)
        if self._number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # as spreadsheets begin their files
        if self.format is Format.CSV:
            line = self._quoted + line
            self._quoted = line + b"\n" if line.count(b'"') % 2 else b""
            if self._quoted:
                return ()
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            if self.format is Format.CSV and self.columns is None:
                self._refuse(self._first, "not UTF-8")
            return (Line(self._first, problem="not UTF-8"),)
        if not text.strip():
            return ()
        return self._row(text) if self.format is Format.CSV else (self._json(text),)

    def _json(self, text: str) -> Line:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return Line(self._first, problem="not JSON; give an id as a string, or an object")
        return Line(self._first, value)

    def _row(self, text: str) -> Iterable[Line]:
        if self.columns is None and ";" in text and "," not in text:
            self._separator = ";"  # as spreadsheets write CSV where the comma is in numbers
        try:
            (cells,) = csv.reader([text], strict=True, delimiter=self._separator)
        except (csv.Error, ValueError):
            problem = (
                "not CSV: quotes stand around a whole cell, and are doubled within it; lines end"
                " with LF or CRLF"
            )
            if self.columns is None:
                self._refuse(self._first, problem)
            return (Line(self._first, problem=problem),)
        if self.columns is None:
            self._header([cell.strip() for cell in cells])
            return ()
        if len(cells) != len(self.columns):
            problem = f"{len(cells)} cells, but the first line names {len(self.columns)} columns"
            return (Line(self._first, problem=problem),)
        return (Line(self._first, dict(zip(self.columns, cells, strict=True))),)

    def _header(self, columns: list[str]) -> None:
        if CUSTOMER not in columns:
            self._refuse(
                self._first,
                "the first line names the columns; one must be customer, with commas or"
                " semicolons between them",
            )
        named = [column for column in columns if column]
        if len(named) != len(set(named)):
            self._refuse(self._first, "two columns have the same name")
        self.columns = tuple(columns)

    def _check_bound(self, size: int, line: int) -> None:
        if size > LINE_BYTES:
            self._refuse(
                line,
                f"longer than {LINE_BYTES} bytes; perhaps a quote is not closed, or lines end with"
                " CR alone",
            )

    def _refuse(self, line: int, problem: str) -> None:
        raise FrameError(ErrorCode.BAD_FRAME, f"recipients: line {line}: {problem}")


def check_columns(columns: Iterable[str], said: Words) -> None:
    """Raise `FrameError` about a field that the file has no column for."""
    missing = sorted(said.fields - set(columns))
    if missing:
        raise FrameError(
            ErrorCode.BAD_FRAME,
            f"text, title: the file has no column {' and no column '.join(missing)}",
        )


BAD_SHOWN = 10


class Bad(msgspec.Struct):
    """The bad lines of an audience: the first few, and how many there are."""

    shown: list[str] = []
    many: int = 0

    def note(self, place: str, problem: str) -> None:
        self.many += 1
        if len(self.shown) < BAD_SHOWN:
            self.shown.append(f"{place}: {problem}")

    def error(self) -> FrameError:
        """What to answer: nothing was taken."""
        more = self.many - len(self.shown)
        told = "; ".join(self.shown) + (f"; and {more} more" if more else "")
        return FrameError(ErrorCode.BAD_FRAME, f"recipients: {told}. Nothing was sent")


def digest(*parts: bytes | str) -> str:
    """What tells one campaign from another under the same key."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return hashed.hexdigest()
