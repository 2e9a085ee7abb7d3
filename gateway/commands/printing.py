"""What `ringback why` and `ringback check` print: facts that others gathered, laid out for people.

Decides nothing but the layout. What is told of a message is made in `gateway.why` and put into
words by `gateway.sentences`; what is broken in a database is found by `storage.audit`.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import msgspec
from rich.table import Column, Table

from gateway import sentences
from gateway.commands.common import screen
from storage.audit import Audit, Balance, Finding
from storage.records import Outcome

SHOWN = 200
"""Findings that a terminal gets. `--json` has all that were kept."""


def show_message(answer: dict[str, Any]) -> None:
    """One message: what became of it, its timeline, and what another policy would have done."""
    console = screen()
    reason = f" ({answer['reason']})" if "reason" in answer else ""
    outcome = answer["outcome"] or "no outcome"
    console.print(f"message {answer['seq']} of {answer['customer']}: {outcome}{reason}")
    for line in sentences.summary(answer):
        console.print(line, soft_wrap=True)
    before = answer["events"][0]["at"]
    what = Column("what", overflow="fold")  # ids are whole, however long they are
    table = Table(f"{before[:10]} UTC", "event", what, box=None, pad_edge=False)
    for entry in answer["events"]:
        at = sentences.clock(entry["at"], before)
        table.add_row(at, entry["event"], sentences.told(entry))
        before = entry["at"]
    console.print(table)
    for line in sentences.would(answer["policy"]) if "policy" in answer else ():
        console.print(line, soft_wrap=True)


def show_audit(audit: Audit) -> None:
    """The balance of each tenant, and then every row that breaks a law."""
    console = screen()
    names = ("accepted", *Outcome)
    table = Table("tenant", box=None, pad_edge=False)
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("accepted = the sum")
    for balance in audit.balances:
        counted = (str(balance.counted[name]) for name in names)
        table.add_row(balance.tenant, *counted, _holds(balance))
    console.print(table)
    for finding in islice(audit.findings, SHOWN):
        console.print(f"{_where(finding)}: {finding.problem}", soft_wrap=True)
    more = audit.more + max(0, len(audit.findings) - SHOWN)
    if more:
        console.print(f"and {more} more")
    size = f"{audit.conversations} conversations, {audit.messages} messages"
    broken = len(audit.findings) + audit.more
    console.print(f"all holds: {size}" if audit.holds else f"BROKEN: {broken} findings in {size}")


def audit_as_json(audit: Audit) -> bytes:
    """The same for machines."""
    return msgspec.json.encode(
        {
            "holds": audit.holds,
            "conversations": audit.conversations,
            "messages": audit.messages,
            "tenants": [
                {
                    "tenant": balance.tenant,
                    "holds": balance.holds,
                    "counted": balance.counted,
                    "stored": balance.stored,
                }
                for balance in audit.balances
            ],
            "findings": audit.findings,
            "more_findings": audit.more,
        }
    )


def _holds(balance: Balance) -> str:
    if balance.holds:
        return "holds, and so say the counters"
    return "BROKEN: the counters differ" if balance.conserved else "BROKEN"


def _where(finding: Finding) -> str:
    """`acme c-42 seq 9`, as far as it is known."""
    parts = [finding.tenant, finding.customer]
    if finding.seq is not None:
        parts.append(f"seq {finding.seq}")
    if finding.device is not None:
        parts.append(f"device {finding.device}")
    return " ".join(part for part in parts if part) or "the file"
