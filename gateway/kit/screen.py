"""What `ringback backend` prints of each call: for people, or a line of JSON for machines."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.commands.common import plain
from gateway.kit import masking
from gateway.kit.backend import Answered
from gateway.kit.received import Received


@dataclass(frozen=True, slots=True)
class ForPeople:
    """One line when a call has ended; with `verbose` the request before it, secrets masked."""

    verbose: bool = False

    def arrived(self, call: Received, double: bool) -> None:
        """Nothing yet: what became of it is in the same line."""

    def answered(
        self,
        call: Received,
        double: bool,
        answered: Answered,
        headers: Mapping[str, str],
        raw: bytes,
    ) -> None:
        if self.verbose:
            lines = [*masking.headers(headers), "", *masking.body(raw, call.masks).splitlines()]
            print("".join(f"  | {plain(line)}\n" for line in lines), end="")
        print(plain(line(call, double, answered, time.strftime("%H:%M:%S"))), flush=True)


def line(call: Received, double: bool, answered: Answered, at: str) -> str:
    """All that matters of one call."""
    verdict = answered.verdict
    badge = "-" if call.badge is None else str(call.badge)
    parts = [
        f"{at}  {call.id or 'no webhook-id':<20}",
        f"{call.kind or '-':<9}",
        f"badge {badge:<3}",
        f"device {call.device or '-':<12}",
        f"signature {call.signature}, credential {call.credential}",
        *(["DOUBLE"] if double else []),
        f"-> {verdict.status or 'no answer'}, {answered.why}: {verdict.kind} "
        f"({answered.ms:.0f} ms)",
    ]
    return "  ".join(parts)


class ForMachines:
    """One JSON object a line: `ring` when a call came, `answered` when it ended."""

    def arrived(self, call: Received, double: bool) -> None:
        _tell(
            "ring",
            ring=call.id,
            double=double,
            signature=call.signature.name.lower(),
            device=call.device,
            kind=call.kind,
            customer=call.customer,
            seq=call.seq,
            title=call.title,
            text=call.text,
            badge=call.badge,
            unread=call.unread,
        )

    def answered(
        self,
        call: Received,
        double: bool,
        answered: Answered,
        headers: Mapping[str, str],
        raw: bytes,
    ) -> None:
        verdict = answered.verdict
        _tell(
            "answered",
            ring=call.id,
            status=verdict.status,
            why=answered.why,
            verdict=verdict.kind,
            ms=round(answered.ms, 1),
        )


def ready(url: str) -> None:
    """The first line for machines: where the backend listens."""
    _tell("ready", url=url)


def _tell(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, "at": time.time(), **fields}), flush=True)
