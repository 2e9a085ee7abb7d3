"""What a notification says in each mode and language, and that nothing too long leaves."""

import json
import unicodedata
from typing import Any

import orjson
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from push.adapters import Request
from push.content import BESIDE, BOUND, MARK, Content, Mode, Words, cut, fitted, is_blank, words
from push.ring import Ring, RingKind

GERMAN = "Sie haben eine neue Nachricht."
ENGLISH = "You have a new message."
TEXTS = {"en": ENGLISH, "de": GERMAN, "de-ch": "Sie haben eine neue Nachricht, gäll."}
FAMILY = "👨‍👩‍👧‍👦"
FLAG = "🇦🇹"
ACCENTED = "e\u0301"
THUMB = "👍🏽"
KEYCAP = "1\ufe0f\u20e3"
HANGUL = "\u1112\u1161\u11ab"


def content(mode: Mode, **changes: Any) -> Content:
    return Content(**({"mode": mode, "texts": TEXTS, "title": "Acme"} | changes))


def ring(title: str | None, text: str | None) -> Ring:
    return Ring(
        id="r_1",
        kind=RingKind.MESSAGE,
        customer="c-42",
        seq=1,
        title=title,
        text=text,
        unread=1,
        badge_seq=1,
        live=True,
        expires_at=0.0,
    )


def write(ring: Ring, token: str = "the-token") -> Request:
    body = {"token": token, "title": ring.title, "text": ring.text, "rest": "x" * 200}
    return Request({}, orjson.dumps(body))


# Modes


def test_full_shows_the_message_as_it_is() -> None:
    assert words(content(Mode.FULL), "Parcel", "It is here.", None) == Words(
        "Parcel", "It is here."
    )


def test_without_a_title_of_its_own_a_message_has_the_tenants() -> None:
    assert words(content(Mode.FULL), None, "hi", None).title == "Acme"


def test_preview_shows_the_first_characters_and_that_there_are_more() -> None:
    shown = words(content(Mode.PREVIEW, preview_chars=5), None, "Hello, how are you?", None)
    assert shown.text == "Hello" + MARK


def test_preview_leaves_a_short_message_alone() -> None:
    shown = words(content(Mode.PREVIEW, preview_chars=5), None, "Hello", None)
    assert shown.text == "Hello"


def test_generic_says_nothing_of_the_message_not_even_its_title() -> None:
    shown = words(content(Mode.GENERIC), "Your test result", "It is positive.", "en-GB")
    assert shown == Words("Acme", ENGLISH)


def test_none_hands_over_no_word() -> None:
    assert words(content(Mode.NONE), "Your test result", "It is positive.", "en") == Words(
        None, None
    )


# Languages


@pytest.mark.parametrize(
    ("locale", "text"),
    [
        ("de", GERMAN),
        ("de-AT", GERMAN),
        ("de_AT", GERMAN),
        ("de_AT.UTF-8", GERMAN),
        ("DE-CH", TEXTS["de-ch"]),
        ("de-CH-1996", TEXTS["de-ch"]),
        ("fr-FR", ENGLISH),
        ("", ENGLISH),
        ("-", ENGLISH),
        ("…", ENGLISH),
        (None, ENGLISH),
    ],
)
def test_a_device_is_told_in_its_language_or_the_nearest_or_the_tenants(
    locale: str | None, text: str
) -> None:
    assert words(content(Mode.GENERIC), None, "secret", locale).text == text


def test_the_tenants_own_language_is_the_one_to_fall_back_to() -> None:
    assert words(content(Mode.GENERIC, locale="de"), None, "secret", "fr").text == GERMAN


def test_titles_have_languages_too() -> None:
    chosen = content(Mode.FULL, titles={"de": "Neue Nachricht"})
    assert words(chosen, None, "hi", "de-AT").title == "Neue Nachricht"
    assert words(chosen, None, "hi", "fr").title == "Acme"
    assert words(chosen, "Parcel", "hi", "de").title == "Parcel"


# Never blank


@pytest.mark.parametrize("blank", [" ", "\n\t ", "\u200b", "\u00a0\u2003", "\u200d\ufeff"])
@pytest.mark.parametrize("mode", [Mode.FULL, Mode.PREVIEW])
def test_what_nobody_could_see_is_replaced_by_the_general_words(mode: Mode, blank: str) -> None:
    assert words(content(mode), blank, blank, "de") == Words("Acme", GERMAN)


@given(st.sampled_from(Mode), st.none() | st.text(), st.text(), st.none() | st.text())
def test_no_notification_is_ever_blank(
    mode: Mode, title: str | None, text: str, locale: str | None
) -> None:
    shown = words(content(mode), title, text, locale)
    if mode is not Mode.NONE:
        assert not is_blank(shown.title or "")
        assert not is_blank(shown.text or "")


@pytest.mark.parametrize("text", ["", " \u3000", "\u3164", "\u115f", "\u2800", "\ufe0f", "\u034f"])
def test_what_nobody_sees_is_blank(text: str) -> None:
    assert is_blank(text)
    assert words(content(Mode.FULL), text, text, "de") == Words("Acme", GERMAN)


# Cutting


@pytest.mark.parametrize("one", [FAMILY, FLAG, ACCENTED, THUMB, KEYCAP, HANGUL, "ä", "漢"])
def test_what_a_reader_takes_for_one_character_is_never_split(one: str) -> None:
    assert cut(one * 3, 3) == one * 3
    assert cut(one * 3, 2) == one * 2 + MARK
    text = one * 4000
    sent = json.loads(fitted(write, write, ring(None, text)).body)["text"].removesuffix(MARK)
    assert 0 < len(sent) < len(text)
    assert len(sent) % len(one) == 0


@given(st.text(alphabet=st.characters(categories=["L", "Mn", "So", "Sk", "Cf", "Zs"])))
def test_a_cut_is_a_whole_number_of_characters(text: str) -> None:
    whole = regex.findall(r"\X", text)
    shown = cut(text, 3)
    assert shown == (text if len(whole) <= 3 else "".join(whole[:3]).rstrip() + MARK)


# The bound


def test_what_fits_is_sent_as_it_is() -> None:
    assert fitted(write, write, ring("t", "hello")) == write(ring("t", "hello"))


PIECES = ["a", '"', "\\", "\x01", "ä", "漢", FAMILY, FLAG, " "]


@settings(max_examples=30)
@given(st.lists(st.sampled_from(PIECES), min_size=5, max_size=60))
def test_the_text_is_cut_to_the_bound_and_no_further(pieces: list[str]) -> None:
    text = "".join(pieces) * 60
    request = fitted(write, write, ring("Title", text))
    body = json.loads(request.body)
    assert len(request.body) <= BOUND
    assert body["title"] == "Title"
    if body["text"] == text:
        return
    kept = body["text"].removesuffix(MARK)
    assert text.startswith(kept)
    following = regex.match(r"\s*\X", text, pos=len(kept))
    assert following is not None
    longer = write(ring("Title", kept + following.group() + MARK))
    assert len(longer.body) > BOUND, "there was room for another character"


@pytest.mark.parametrize("one", ["a", FAMILY])
def test_however_long_a_text_is_no_more_of_it_is_tried_than_could_be_sent(one: str) -> None:
    """Half a minute of the loop for each ring, with the longest that can be allowed."""
    whole = 100_000 * one
    tried: list[str] = []

    def measure(ring: Ring) -> Request:
        tried.append(ring.text or "")
        return write(ring)

    request = fitted(write, measure, ring("Title", whole))
    assert BOUND - len(FAMILY.encode()) < len(request.body) <= BOUND
    assert tried.pop(0) == whole
    assert max(map(len, tried)) <= BOUND + len(MARK)


def test_a_title_that_is_too_long_is_cut_when_the_text_is_gone() -> None:
    request = fitted(write, write, ring("t" * 9000, "hello"))
    body = json.loads(request.body)
    assert len(request.body) == BOUND
    assert body["text"] == MARK
    assert set(body["title"]) == {"t", MARK}


def test_the_device_token_and_credentials_do_not_count() -> None:
    token = 'quo"ted' * 500

    def with_token(ring: Ring) -> Request:
        return write(ring, token)

    def measure(ring: Ring) -> Request:
        return write(ring, BESIDE)

    short = ring("Title", "a" * 3000)
    assert len(with_token(short).body) > BOUND
    assert fitted(with_token, measure, short) == with_token(short)
    long = fitted(with_token, measure, ring("Title", "a" * 9000))
    assert BOUND - 3 <= len(long.body) - len(json.dumps(token)) + 2 <= BOUND


def test_a_token_that_occurs_in_the_message_takes_nothing_from_the_bound() -> None:
    def with_token(ring: Ring) -> Request:
        return write(ring, "dev")

    def measure(ring: Ring) -> Request:
        return write(ring, BESIDE)

    request = fitted(with_token, measure, ring("Title", "developers develop " * 400))
    assert BOUND - 3 <= len(request.body) - len("dev") <= BOUND


def test_what_has_no_words_and_is_too_long_is_sent_as_it_is() -> None:
    def huge(ring: Ring) -> Request:
        return Request({}, b"x" * 9000)

    assert fitted(huge, huge, ring(None, None)).body == b"x" * 9000
    assert fitted(huge, huge, ring("t", "t")).body == b"x" * 9000


def test_the_clusters_are_those_of_unicode() -> None:
    assert unicodedata.name(FAMILY[0]) == "MAN"
    assert regex.findall(r"\X", FAMILY + FLAG + ACCENTED) == [FAMILY, FLAG, ACCENTED]
