"""Acks and reads that the server could not take, said again."""

from __future__ import annotations

import orjson

from gateway.clientside.marks import MARKS, Marks
from tests.dice import Dice


def test_of_acks_and_reads_the_newest_of_each_kind_is_said_again() -> None:
    marks = Marks(Dice())
    ack, read = marks.put("ack ", {"type": "ack", "seq": 1}), marks.put("read ", {"type": "read"})
    refs = [orjson.loads(data)["ref"] for data in (ack, read)]
    assert len(set(refs)) == 2
    waits = []
    for _ in range(7):
        found = marks.refused(refs[0])
        assert found is not None
        mark, wait = found
        assert (mark.data, marks.stands(mark)) == (ack, True)
        waits.append(wait)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    assert marks.standing() == [mark]
    newer = orjson.loads(marks.put("ack ", {"type": "ack", "seq": 2}))["ref"]
    assert not marks.stands(mark)
    assert marks.standing() == []
    assert marks.refused(refs[0]) is None
    assert marks.refused(None) is None
    found = marks.refused(newer)
    assert found is not None
    assert found[1] == 1.0
    marks.clear()
    assert marks.refused(newer) is None
    assert not marks.stands(found[0])


def test_of_very_many_acks_the_newest_are_known() -> None:
    marks = Marks(Dice())
    refs = [
        orjson.loads(marks.put(f"ack c-{number}", {"type": "ack", "seq": 1}))["ref"]
        for number in range(MARKS + 1)
    ]
    assert [marks.refused(ref) is not None for ref in refs] == [False] + [True] * MARKS
