"""The conformance report: what a backend's developer acts on, and the same for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gateway.commands.common import screen
from gateway.kit import probe
from gateway.kit.bench import Bench, Finding, Result
from gateway.kit.conformance import Check
from push.caller import Exchange
from push.verdicts import Answer

CONTRACT: Final = "docs/push-contract.md"
_STYLES: Final = {
    Result.PASS: "green",
    Result.WARN: "yellow",
    Result.FAIL: "bold red",
    Result.UNKNOWN: "bright_black",
}

Found = Sequence[tuple[Check, Finding]]


def conforms(found: Found) -> bool:
    """Tell whether nothing failed. What could not be seen is not held against the backend."""
    return all(finding.result is not Result.FAIL for _, finding in found)


def answered(found: Found) -> bool:
    """Tell whether the backend was there at all."""
    return any(isinstance(call.came, Answer) for _, finding in found for call in finding.calls)


def show(found: Found, bench: Bench, *, verbose: bool) -> None:
    """A line for each check; of what failed or was warned about also the calls and the contract."""
    console = screen()
    endpoint = bench.endpoint
    signed = "signed" if bench.signs else "not signed"
    console.print(f"{probe.address(endpoint.url)}, adapter {endpoint.adapter}, {signed}")
    table = Table("", "check", "", "found", box=None, pad_edge=False)
    for check, finding in found:
        result = Text(finding.result, _STYLES[finding.result])
        table.add_row(result, check.name, check.title, finding.said)
    console.print(table)
    for check, finding in found:
        if verbose or finding.result in (Result.FAIL, Result.WARN):
            console.print(f"\n{finding.result}: {check.title} ({check.name})")
            console.print(f"  {finding.said}", soft_wrap=True)
            console.print(f"  contract: {check.contract}", soft_wrap=True)
            console.print(f"  {CONTRACT}#{check.anchor}", soft_wrap=True)
            for call in finding.calls:
                _show_call(console, call, bench)
    counted = Counter(finding.result for _, finding in found)
    counts = ", ".join(f"{counted[result]} {result}" for result in Result if counted[result])
    verdict = "the backend conforms" if conforms(found) else "the backend does NOT conform"
    if not answered(found):
        verdict = "the backend did not answer"
    console.print(f"\n{counts}: {verdict}")


def _show_call(console: Console, call: Exchange, bench: Bench) -> None:
    told = as_call(call, bench)
    for title, lines in (("sent", told["sent"]), (f"came, after {told['ms']} ms", told["came"])):
        console.print(f"  {title}")
        for line in lines:
            console.print(f"    {line}".rstrip(), soft_wrap=True)


def as_call(call: Exchange, bench: Bench) -> dict[str, Any]:
    """One call, secrets masked."""
    tokens = [token for token in (bench.token, bench.dead_token) if token is not None]
    return probe.told(call, bench.endpoint, *tokens)


def as_json(found: Found, bench: Bench) -> dict[str, Any]:
    """The whole report."""
    return {
        "url": probe.address(bench.endpoint.url),
        "adapter": bench.endpoint.adapter,
        "signed": bench.signs,
        "conforms": conforms(found),
        "checks": [
            {
                "name": check.name,
                "title": check.title,
                "result": finding.result.value,
                "found": finding.said,
                "contract": check.contract,
                "see": f"{CONTRACT}#{check.anchor}",
                "calls": [as_call(call, bench) for call in finding.calls],
            }
            for check, finding in found
        ],
    }
