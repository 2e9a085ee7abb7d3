"""What a tenant may say about its notifications, and which words are refused."""

from pathlib import Path

import pytest

from gateway.config.content import content_of
from push import content
from push.content import Mode
from tests.gateway.configured import GOOD, push_of, read, refused

KEY = "tenants.acme.push.content"


def section(*lines: str) -> str:
    return GOOD + "\n".join([f"[{KEY}]", *lines])


def test_without_a_section_the_whole_message_is_shown(tmp_path: Path) -> None:
    push = push_of(read(tmp_path))
    assert content_of(push.content, push.title) == content.Content()


def test_everything_can_be_chosen(tmp_path: Path) -> None:
    text = section(
        'mode = "preview"',
        "preview_chars = 40",
        'texts = { de_AT = "Nachricht", en = "Message" }',
        'titles = { de = "Neu" }',
        'locale = "de-AT"',
    )
    push = push_of(read(tmp_path, text))
    assert content_of(push.content, "Acme") == content.Content(
        mode=Mode.PREVIEW,
        preview_chars=40,
        title="Acme",
        titles={"de": "Neu"},
        texts={"de-at": "Nachricht", "en": "Message"},
        locale="de-at",
    )


def test_from_the_environment_a_table_is_json(tmp_path: Path) -> None:
    variable = "RINGBACK_TENANTS__ACME__PUSH__CONTENT__TEXTS"
    push = push_of(read(tmp_path, GOOD, {variable: '{"en": "Hi"}'}))
    assert content_of(push.content, "t").texts == {"en": "Hi"}
    assert "is not JSON" in str(refused(tmp_path, GOOD, {variable: "{en"}))
    twice = '{"en": "Hi", "en": "Ho"}'
    assert "has 'en' twice" in str(refused(tmp_path, GOOD, {variable: twice}))
    assert "nested too deeply" in str(refused(tmp_path, GOOD, {variable: "[" * 1_000_000}))


@pytest.mark.parametrize(
    ("line", "key", "problem"),
    [
        ('mode = "loud"', "mode", "is 'loud'"),
        ("mode = 1", "mode", "is 1"),
        ("preview_chars = 0", "preview_chars", "is 0"),
        ('texts = "hi"', "texts", "is not a table"),
        ("texts = {}", "texts", "is not a table with an entry"),
        ('texts = { en = " " }', "texts", "for 'en' a text that is blank"),
        (f'texts = {{ en = "{"x" * 501}" }}', "texts", "too long"),
        ("texts = { en = 1 }", "texts", "is not a text"),
        ('titles = { de-AT = "a", de_at = "b" }', "titles", "a language twice, in two spellings"),
        ('texts = { "" = "hi" }', "texts", "without a language"),
        ('texts = { " " = "hi" }', "texts", "without a language"),
        ('texts = { de = "hallo" }', "locale", "is 'en'; expected one that texts has: de"),
        ('locale = ""', "locale", "is empty"),
        ('locale = "fr"', "locale", "expected one that texts has: en"),
        ("style = 1", "style", "is not a known key"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_key(
    tmp_path: Path, line: str, key: str, problem: str
) -> None:
    error = refused(tmp_path, section(line))
    assert error.key == f"{KEY}.{key}"
    assert problem in str(error)


def test_a_title_may_have_500_characters(tmp_path: Path) -> None:
    title = "x" * 500
    environ = {"RINGBACK_TENANTS__ACME__PUSH__TITLE": title}
    assert push_of(read(tmp_path, GOOD, environ)).title == title


@pytest.mark.parametrize(
    ("title", "problem"),
    [("", "empty"), (" ", "blank"), ("\u200b", "blank"), ("x" * 501, "too long")],
)
def test_a_title_that_nobody_would_see_is_refused(tmp_path: Path, title: str, problem: str) -> None:
    error = refused(tmp_path, GOOD, {"RINGBACK_TENANTS__ACME__PUSH__TITLE": title})
    assert error.key == "RINGBACK_TENANTS__ACME__PUSH__TITLE"
    assert (error.problem, error.expected[-22:]) == (f"is {problem}", "at most 500 characters")
