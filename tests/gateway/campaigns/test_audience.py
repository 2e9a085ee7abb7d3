"""Templates and audiences: what is taken, what is refused, and how the place is named."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.campaigns import audience
from gateway.campaigns.audience import (
    LINE_BYTES,
    Bad,
    BadRecipient,
    Entry,
    File,
    Format,
    Line,
    Words,
)
from gateway.protocol import CUSTOMER_LIMITS, FrameError

PLAIN = audience.words("hello", None)
NAMED = audience.words("Hello {name}", None)


def lines(file: File, data: bytes, size: int = 7) -> list[Line]:
    """What a file says when it comes in pieces."""
    found = []
    for at in range(0, len(data), size):
        found += file.feed(data[at : at + size])
    return found + file.end()


# Templates


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("hello", "hello"),
        ("Hello {name}!", "Hello Ann!"),
        ("{name}{name}", "AnnAnn"),
        ("{customer}: {a.b-c_1}", "c-1: x"),
        ("{{name}} }}{{", "{name} }{"),
        ("{{{name}}}", "{Ann}"),
        ("", ""),
    ],
)
def test_fields_in_braces_are_filled_in(text: str, told: str) -> None:
    values = {"customer": "c-1", "name": "Ann", "a.b-c_1": "x"}
    assert audience.template(text, "text").render(values) == told


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("Hello {name", 7),
        ("}", 1),
        ("a {} b", 3),
        ("{first name}", 1),
        ("{{{a b}}}", 3),
        ("{ü}", 1),
    ],
)
def test_a_brace_that_opens_no_field_is_refused_with_its_place(text: str, at: int) -> None:
    with pytest.raises(FrameError) as refused:
        audience.template(text, "title")
    assert refused.value.message.startswith(f"title: at character {at}: ")
    assert "{name}" in refused.value.message


@given(st.text(), st.text())
def test_what_is_filled_in_is_not_read_as_a_template_again(before: str, value: str) -> None:
    escaped = before.replace("{", "{{").replace("}", "}}")
    assert audience.template(escaped + "{v}", "text").render({"v": value}) == before + value


@given(st.lists(st.sampled_from(["{a}", "{b}", "{{", " ", "\n", "x"])), st.text(), st.text())
def test_what_is_judged_without_making_the_text_is_what_it_would_be(
    pieces: list[str], a: str, b: str
) -> None:
    template, values = audience.template("".join(pieces), "text"), {"a": a, "b": b}
    made = template.render(values)
    assert template.size(values) == len(made)
    assert template.is_blank(values) is not bool(made.strip())


def test_a_text_that_would_be_a_thousand_times_its_line_is_refused_and_not_made() -> None:
    """A file of such lines took seconds of the loop, and 160 MB for each."""
    said = audience.words("{a}" * 2_666, None)
    recipient = {"customer": "c-1", "a": "x" * 60_000}
    tracemalloc.start()
    with pytest.raises(BadRecipient, match="text: would have 159960000 characters"):
        audience.entry(recipient, said, CUSTOMER_LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000


def test_the_fields_of_text_and_title_are_wanted_but_for_the_customer() -> None:
    said = audience.words("{a} {customer}", "{b}")
    assert said.fields == {"a", "b"}
    assert said.to("c-1", '{"a": "A", "b": "B"}') == ("A c-1", "B")
    assert PLAIN.fields == frozenset()
    assert PLAIN.to("c-1", None) == ("hello", None)


def test_a_column_that_the_text_wants_must_be_in_the_file() -> None:
    audience.check_columns(("customer", "name"), NAMED)
    with pytest.raises(FrameError, match="the file has no column name"):
        audience.check_columns(("customer", "vorname"), NAMED)


# Recipients


@pytest.mark.parametrize(
    ("value", "said", "found"),
    [
        ("c-1", PLAIN, Entry("c-1", None)),
        ({"customer": "c-1", "name": "Ann", "more": [1]}, PLAIN, Entry("c-1", None)),
        ({"customer": "c-1", "name": "Ann"}, NAMED, Entry("c-1", '{"name":"Ann"}')),
        ({"customer": "c-1", "name": 7}, NAMED, Entry("c-1", '{"name":"7"}')),
        ({"customer": "c-1", "name": ""}, NAMED, Entry("c-1", '{"name":""}')),
        ({"customer": "c-1", "name": -5}, NAMED, Entry("c-1", '{"name":"-5"}')),
        ({"customer": "c-1", "name": 2**64 - 1}, NAMED, Entry("c-1", f'{{"name":"{2**64 - 1}"}}')),
        ({"customer": "c-1", "name": 1 - 2**63}, NAMED, Entry("c-1", f'{{"name":"{1 - 2**63}"}}')),
    ],
)
def test_a_recipient_keeps_the_fields_that_are_wanted(
    value: Any, said: Words, found: Entry
) -> None:
    assert audience.entry(value, said, CUSTOMER_LIMITS) == found


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "customer: must be a string"),
        (7, "customer: must be a string"),
        (None, "customer: must be a string"),
        ({"name": "Ann"}, "customer: must be a string"),
        ("c" * 129, "customer: must be a string of 1 to 128"),
        ("c\n1", "customer: must not contain control characters"),
        ("c-1", "name: missing"),
        ({"customer": "c-1", "name": None}, "name: missing"),
        ({"customer": "c-1", "name": True}, "name: must be a string or a number"),
        ({"customer": "c-1", "name": ["secret"]}, "name: must be a string or a number"),
        ({"customer": "c-1", "name": "a\0b"}, "name: must not contain NUL"),
        ({"customer": "c-1", "name": 2**64}, "name: numbers must fit in 64 bits; give"),
        (
            {"customer": "c-1", "name": "x" * 8_000},
            "text: would have 8006 characters, at most 8000",
        ),
    ],
)
def test_a_recipient_who_cannot_be_sent_to_is_refused_without_repeating_it(
    value: Any, problem: str
) -> None:
    with pytest.raises(BadRecipient) as refused:
        audience.entry(value, NAMED, CUSTOMER_LIMITS)
    assert refused.value.problem.startswith(problem)
    assert "secret" not in refused.value.problem


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (audience.words("{name}", None), "text: would be blank"),
        (audience.words("hello", "{name}"), "title: would have 0 characters"),
        (audience.words("hello", "x" * 200 + "{name}y"), "title: would have 201 characters"),
    ],
)
def test_words_that_would_be_blank_or_too_long_are_refused(said: Words, problem: str) -> None:
    with pytest.raises(BadRecipient, match=problem):
        audience.entry({"customer": "c-1", "name": ""}, said, CUSTOMER_LIMITS)


def test_words_may_be_as_long_as_is_said() -> None:
    said = audience.words("{name}" + "x" * 7_800, "{name}")
    assert audience.entry({"customer": "c-1", "name": "y" * 200}, said, CUSTOMER_LIMITS)


# Files


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_csv_is_read_as_it_comes_quotes_and_line_ends_within_them_included(size: int) -> None:
    data = (
        b"\xef\xbb\xbfcustomer,name,,\r\n"
        b"c-1,Ann,,\r\n"
        b"\r\n"
        b'c-2,"Ben ""B""\nthe second, really",x,\n'
        b'"c-3",\xc3\x84nne,,'
    )
    found = lines(File(Format.CSV), data, size)
    assert [line.number for line in found] == [2, 4, 6]
    assert [line.value["name"] for line in found] == ["Ann", 'Ben "B"\nthe second, really', "Änne"]


def test_a_semicolon_separates_where_the_first_line_has_no_comma() -> None:
    (line,) = lines(File(Format.CSV), b"customer;sum\nc-1;3,50\n")
    assert line.value == {"customer": "c-1", "sum": "3,50"}


def test_a_semicolon_in_a_name_separates_nothing_where_commas_do() -> None:
    (line,) = lines(File(Format.CSV), b"customer,paid;open\nc-1,3;4\n")
    assert line.value == {"customer": "c-1", "paid;open": "3;4"}


def test_a_semicolon_in_a_row_separates_nothing_where_the_first_line_has_none() -> None:
    found = lines(File(Format.CSV), b"customer\nacme;7\nc-2\n")
    assert [line.value for line in found] == [{"customer": "acme;7"}, {"customer": "c-2"}]


def test_a_line_may_be_as_long_as_is_said() -> None:
    header, longest = b"customer\n", b"x" * LINE_BYTES
    for data in (header + longest, header + longest + b"\n"):
        (line,) = lines(File(Format.CSV), data, 100_000)
        assert line.value == {"customer": longest.decode()}
    with pytest.raises(FrameError, match=f"longer than {LINE_BYTES} bytes"):
        lines(File(Format.CSV), header + longest + b"x", 100_000)


@pytest.mark.parametrize(
    "begun", [b"customer\nc-1\n" + b"x" * 1_000, b'customer\nc-1\n"' + b"x\n" * 500 + b"y" * 10]
)
def test_of_a_line_that_does_not_end_no_more_is_held_than_it_may_have(begun: bytes) -> None:
    file = File(Format.CSV)
    file.feed(begun)
    for _ in range((LINE_BYTES - len(begun)) // 1_000):
        assert file.feed(b"x" * 1_000) == []
    with pytest.raises(FrameError, match="line 3: longer than 65536 bytes"):
        file.feed(b"x" * 1_100)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "line 1: the file is empty"),
        (b"\n\n", "line 1: the file is empty"),
        (b"c-1\nc-2\n", "line 1: the first line names the columns; one must be customer"),
        (
            b"customer\tname\nc-1\tAnn\n",
            "line 1: the first line names the columns; one must be customer, with commas or"
            " semicolons between them",
        ),
        (b"customer,a,a\n", "line 1: two columns have the same name"),
        (b"customer,\xff\n", "line 1: not UTF-8"),
        (b'customer,"a"b\n', "line 1: not CSV"),
        (
            b"customer,name\rc-1,Ann\r",
            "line 1: not CSV: quotes stand around a whole cell, and are doubled within it;"
            " lines end with LF or CRLF",
        ),
        (
            b"customer,name\r" + b"c-1,Ann\r" * 10_000,
            "line 1: longer than 65536 bytes; perhaps a quote is not closed, or lines end with CR",
        ),
        (b'customer\nc-1\n"c-2\nc-3\n', "line 3: a quote"),
        (b"customer\n" + b"x" * 70_000, "line 2: longer than 65536 bytes"),
        (b"customer\n" + b"x" * 70_000 + b"\n", "line 2: longer than 65536 bytes"),
        (b'customer\n"' + b"x\n" * 40_000, "line 2: longer than 65536 bytes"),
        (b'customer\n"' + b"x\n" * 40_000 + b'"\n', "line 2: longer than 65536 bytes"),
    ],
)
def test_a_file_of_no_use_is_refused_with_the_line(data: bytes, problem: str) -> None:
    with pytest.raises(FrameError) as refused:
        lines(File(Format.CSV), data, 100_000)
    assert refused.value.message.startswith(f"recipients: {problem}")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"c-1", "1 cells, but the first line names 2 columns"),
        (b"c-1,a,b", "3 cells, but the first line names 2 columns"),
        (b"c-1,\xff", "not UTF-8"),
        (b'c-1,"a"b', "not CSV"),
    ],
)
def test_a_bad_row_is_named_and_the_rest_is_read(row: bytes, problem: str) -> None:
    first, bad, last = lines(File(Format.CSV), b"customer,name\nc-0,A\n" + row + b"\nc-2,C\n")
    assert bad.number == 3
    assert bad.problem is not None
    assert bad.problem.startswith(problem)
    assert (first.problem, last.problem) == (None, None)
    assert last.number == 4


def test_json_lines_are_ids_or_objects_and_a_bad_one_is_named() -> None:
    data = b'"c-1"\n{"customer": "c-2", "name": "Ann"}\n\nnot json\n"\xff"\n[1]'
    found = lines(File(Format.JSON_LINES), data)
    assert [(line.number, line.value) for line in found if line.problem is None] == [
        (1, "c-1"),
        (2, {"customer": "c-2", "name": "Ann"}),
        (6, [1]),
    ]
    assert [line.number for line in found if line.problem is not None] == [4, 5]


@pytest.mark.parametrize("number", ["12345678901234567890123", "-9223372036854775809", "1e30"])
def test_a_number_that_would_be_told_as_another_is_refused(number: str) -> None:
    data = b'{"customer": "c-1", "name": %s}' % number.encode()
    (line,) = lines(File(Format.JSON_LINES), data)
    with pytest.raises(BadRecipient, match="name: numbers must fit in 64 bits"):
        audience.entry(line.value, NAMED, CUSTOMER_LIMITS)


def test_an_empty_file_of_json_lines_has_no_lines() -> None:
    assert lines(File(Format.JSON_LINES), b"") == []


@given(st.lists(st.text(max_size=20)), st.integers(1, 50))
def test_any_ids_come_out_of_json_lines_as_they_went_in(ids: list[str], size: int) -> None:
    data = "".join(json.dumps(id) + "\n" for id in ids).encode()
    assert [line.value for line in lines(File(Format.JSON_LINES), data, size)] == ids


@given(st.binary(max_size=300), st.integers(1, 50), st.sampled_from(Format))
def test_no_bytes_break_a_file(data: bytes, size: int, format: Format) -> None:
    said = audience.words("{customer} {a}", None)
    with suppress(FrameError, BadRecipient):
        for line in lines(File(format), data, size):
            if line.problem is None:
                audience.entry(line.value, said, CUSTOMER_LIMITS)


# What is said of bad ones


def test_the_first_bad_lines_are_named_and_the_others_counted() -> None:
    bad = Bad()
    for number in range(1, 13):
        bad.note(f"line {number}", "name: missing")
    told = bad.error().message
    assert told.startswith("recipients: line 1: name: missing; line 2: ")
    assert "line 11" not in told
    assert told.endswith("; and 2 more. Nothing was sent")
    one = Bad()
    one.note("line 7", "not JSON")
    assert one.error().message == "recipients: line 7: not JSON. Nothing was sent"


def test_a_digest_tells_where_one_part_ends_and_the_next_begins() -> None:
    assert audience.digest("ab", b"c") != audience.digest("a", b"bc")
    assert audience.digest("ab", b"c") == audience.digest(b"ab", "c")
