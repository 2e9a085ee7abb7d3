"""What a notification says, and how it is kept within the size that APNs and FCM take.

Decides the words of a ring (at the claim, after which they never change), and how much of them a
request can carry. Leaves to the adapters where the words go. Pure and deterministic.

A character is what a reader takes for one (a grapheme cluster, UAX 29): cutting never splits a code
point, a letter from its accents, a flag, or a family of emoji.
"""

from __future__ import annotations

import secrets
from bisect import bisect_right
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final

import msgspec
import regex

from push.adapters import Request
from push.ring import Ring

BOUND: Final = 4096  # bytes of a payload: APNs and FCM refuse what is longer
BESIDE: Final = secrets.token_hex(16)  # what no message says, and any form writes as it is
MARK: Final = "…"  # says that something was cut off
TEXTS: Final[Mapping[str, str]] = {"en": "You have a new message."}

_CLUSTER: Final = regex.compile(r"\X")
_BLANK: Final = regex.compile(r"[\p{Z}\p{C}\p{Default_Ignorable_Code_Point}\u2800]*")


class Mode(StrEnum):
    """How much of a message a notification shows."""

    FULL = "full"
    PREVIEW = "preview"
    GENERIC = "generic"
    NONE = "none"


_PREVIEW, _GENERIC, _NONE = Mode.PREVIEW, Mode.GENERIC, Mode.NONE


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's choice of words. `titles` and `texts` are by language tag, in lower case.

    `title` is the title of a language that `titles` does not have; `locale` is the language of
    `texts` for a device whose own is not there. `preview_chars` counts characters.
    """

    mode: Mode = Mode.FULL
    preview_chars: int = 100
    title: str = "New Message"
    titles: Mapping[str, str] = {}
    texts: Mapping[str, str] = msgspec.field(default_factory=lambda: dict(TEXTS))
    locale: str = "en"


class Words(msgspec.Struct, frozen=True):
    """The title and text of a ring; None where nothing is to be handed over."""

    title: str | None
    text: str | None


def words(content: Content, title: str | None, text: str, locale: str | None) -> Words:
    """What a device of that `locale` is told of a message: never a blank title or text.

    `title` is the message's own, if it has one.
    """
    if content.mode is _NONE:
        return Words(None, None)
    if content.mode is _GENERIC:
        title, text = None, ""
    elif content.mode is _PREVIEW:
        text = cut(text, content.preview_chars)
    if title is None or is_blank(title):
        title = in_language(content.titles, locale) or content.title
    if is_blank(text):
        text = in_language(content.texts, locale) or content.texts[content.locale]
    return Words(title, text)


def in_language(table: Mapping[str, str], locale: str | None) -> str | None:
    """The entry for `locale` or the nearest more general one (RFC 4647, Lookup)."""
    tag = language_tag(locale) if locale and table else ""
    while tag and tag not in table:
        tag = tag.rpartition("-")[0]
    return table.get(tag)


def language_tag(locale: str) -> str:
    """`de_AT.UTF-8`, as some systems write it, as the language tag `de-at`."""
    return locale.partition(".")[0].partition("@")[0].replace("_", "-").lower()


def is_blank(text: str) -> bool:
    """Whether a reader would see nothing."""
    return _BLANK.fullmatch(text) is not None


def cut(text: str, characters: int) -> str:
    """`text` if it has no more characters, else that many with a mark."""
    for number, cluster in enumerate(_CLUSTER.finditer(text)):
        if number == characters:
            return _marked(text[: cluster.start()])
    return text


def is_long(request: Request) -> bool:
    """Whether words may have to be cut off."""
    return len(request.body) > BOUND


def fitted(
    write: Callable[[Ring], Request], measure: Callable[[Ring], Request], ring: Ring
) -> Request:
    """The request for `ring`, its text cut, and then its title, until it is within `BOUND`.

    What is beside the payload (the device token, credentials) does not count: `measure` writes
    `BESIDE` in its place. What is still too long without words is sent as it is: then the backend's
    answer decides.
    """
    request = write(ring)
    for name in ("text", "title"):
        told = getattr(ring, name) is not None
        if told and is_long(request) and _size(measure(ring)) > BOUND:
            ring = _shortened(measure, ring, name)
            request = write(ring)
    return request


def _shortened(measure: Callable[[Ring], Request], ring: Ring, name: str) -> Ring:
    """`ring` with the longest beginning of these words that fits, or with the mark alone."""
    whole: str = getattr(ring, name)[:BOUND]  # each character takes a byte at least

    def upto(end: int) -> Ring:
        return msgspec.structs.replace(ring, **{name: _marked(whole[:end])})

    ends = [0, *(cluster.end() for cluster in _CLUSTER.finditer(whole))]
    too_long = bisect_right(ends, BOUND, key=lambda end: _size(measure(upto(end))))
    return upto(ends[max(0, too_long - 1)])


def _size(request: Request) -> int:
    """Bytes of the body without what is beside the payload."""
    return len(request.body) - request.body.count(BESIDE.encode()) * len(BESIDE)


def _marked(text: str) -> str:
    return text.rstrip() + MARK
