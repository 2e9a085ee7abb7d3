"""What a tenant's notifications say, as a section of the configuration.

Decides: what of it can be used. Leaves to others: the words themselves (`push.content`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from msgspec import Struct

from gateway.config.values import (
    Count,
    FromEnvironment,
    Wrong,
    meta,
    must_be_text,
    one_of,
    shown,
    table,
)
from push import content
from push.content import Mode

DEFAULT: Final = content.Content()  # what is not given is as there
LONGEST: Final = 500  # characters of a text; of what is longer a phone shows the beginning


def _by_language(raw: object, base: Path) -> dict[str, str]:
    """A table of texts by language tag; from the environment, the same as JSON."""
    given = table(raw) if isinstance(raw, FromEnvironment | dict) else {}
    if not given:
        raise ValueError("is not a table with an entry")
    told = {content.language_tag(name): must_be_text(text) for name, text in given.items()}
    if len(told) < len(given):  # of two, one would be said
        raise ValueError("has a language twice, in two spellings")
    for name, text in told.items():
        if not name or content.is_blank(name):
            raise ValueError("has an entry without a language")
        if content.is_blank(text) or len(text) > LONGEST:
            raise ValueError(f"has for {shown(name)} a text that is blank or too long")
    return told


def _title(raw: object, base: Path) -> str:
    text = must_be_text(raw)
    if content.is_blank(text):
        raise ValueError("is blank" if text else "is empty")
    if len(text) > LONGEST:
        raise ValueError("is too long")
    return text


def _language(raw: object, base: Path) -> str:
    tag = content.language_tag(must_be_text(raw))
    if not tag:
        raise ValueError("is empty")
    return tag


_TABLE = 'texts of 1 to 500 characters by language, such as { en = "…", de = "…" }'

ByLanguage = Annotated[dict[str, str] | None, meta(_TABLE, _by_language)]
Title = Annotated[
    str, meta("a text that is not empty and can be seen, of at most 500 characters", _title)
]
Language = Annotated[str, meta('a language tag such as "en" or "de-AT"', _language)]
Modes = Annotated[Mode, one_of(Mode)]


class Content(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of a message a notification shows, and what it says instead."""

    mode: Modes = DEFAULT.mode
    preview_chars: Count = DEFAULT.preview_chars  # what a reader takes for one counts as one
    texts: ByLanguage = None  # None: one in English
    titles: ByLanguage = None  # for languages in which `title` of the push section is not good
    locale: Language = DEFAULT.locale  # of `texts`, for a device whose language is not there


def check_content(section: Content, wrong: Wrong) -> None:
    """Refuse what no single value can tell."""
    texts = section.texts or content.TEXTS
    if section.locale not in texts:
        expected = f"one that texts has: {', '.join(texts)}"
        raise wrong("locale", f"is {shown(section.locale)}", expected)


def content_of(section: Content, title: str) -> content.Content:
    """What `push.content` wants to know."""
    return content.Content(
        mode=section.mode,
        preview_chars=section.preview_chars,
        title=title,
        titles=section.titles or {},
        texts=section.texts or content.TEXTS,
        locale=section.locale,
    )
