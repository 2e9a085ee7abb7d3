"""What reaches the customer backend of a message's words, from the API to the request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.running import running

TEXTS = {"en": "You have a new message.", "de": "Sie haben eine neue Nachricht."}
SECRET = "Your test result is positive."


@pytest.mark.parametrize(("locale", "body"), [("de-AT", TEXTS["de"]), ("fr", TEXTS["en"])])
async def test_generic_tells_each_device_in_its_language_and_nothing_of_the_message(
    tmp_path: Path, locale: str, body: str
) -> None:
    push = {"content": {"mode": "generic", "texts": TEXTS, "titles": {"de": "Neue Nachricht"}}}
    async with running(tmp_path, push=push) as it:
        await it.register(locale=locale)
        await it.write(text=SECRET, title="Result")
        call = await it.backend.take()
    title = "Neue Nachricht" if locale == "de-AT" else "New Message"
    assert call.body["payload"]["aps"]["alert"] == {"title": title, "body": body}
    assert b"positive" not in call.raw
    assert b"Result" not in call.raw


async def test_none_rings_without_a_word(tmp_path: Path) -> None:
    async with running(tmp_path, push={"content": {"mode": "none"}}) as it:
        await it.register()
        await it.write(text=SECRET)
        call = await it.backend.take()
        await it.settled(1, "pushed")
    assert call.body["payload"]["aps"] == {"badge": 1, "sound": "default"}


async def test_a_long_message_rings_within_the_bound_and_a_retry_is_the_same(
    tmp_path: Path,
) -> None:
    text = "👨‍👩‍👧‍👦" * 300
    async with running(tmp_path) as it:
        it.backend.answers.append(503)
        await it.register(token="t" * 4096)
        await it.write(text=text)
        first, again = await it.backend.take(), await it.backend.take()
    shown = first.body["payload"]["aps"]["alert"]["body"]
    payload = json.dumps(first.body["payload"], ensure_ascii=False, separators=(",", ":"))
    assert 3000 < len(payload.encode()) <= 4096
    assert set(shown.removesuffix("…").split("👨‍👩‍👧‍👦")) == {""}, "a family was split"
    assert again.raw == first.raw
