"""How long and how large: the full run, the quick one, and what the options change."""

from __future__ import annotations

from dataclasses import dataclass

MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """Everything that costs time. `in_flight` is per conversation, on both sides."""

    rounds: int = 5
    seconds: float = 5.0
    warm: float = 1.0
    agents: int = 4
    in_flight: int = 1
    conversations: tuple[int, ...] = (100, 1000)
    peers: tuple[str, ...] = ("socketio", "node", "ejabberd", "archive")
    idle: int = 8000
    connects: int = 5000
    pushes: int = 5000
    backlog: int = 100_000
    spreads: tuple[int, ...] = (10, 1000, 20_000)
    """Over how many conversations the same load is spread, for the cost per message."""
    stored: tuple[int, ...] = (0, MILLION, 10 * MILLION)
    customers: int = 100_000
    deaths: int = 40
    latencies: int = 200
    """Pushes in each run beside a neighbour."""


QUICK = Size(
    rounds=1,
    seconds=1.0,
    warm=0.3,
    conversations=(100,),
    idle=1000,
    connects=500,
    pushes=500,
    backlog=1000,
    spreads=(10, 100, 1000),
    stored=(0, 50_000),
    customers=5000,
    deaths=4,
    latencies=20,
)
