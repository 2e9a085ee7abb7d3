"""Sockets that die within 50 ms around the send: each message has the one outcome that is true.

A trial is one customer in chat with a phone. An agent sends; 10 ms before to 50 ms after, at a
random moment, the customer's socket dies in one of seven ways, having acknowledged at once, in its
last moment, or not at all; then the customer comes back soon, or does not, or (after a silence or
in the background) answers late. What the client knows is held against what was recorded: an ack
that it wrote on a socket which then ended in order is recorded; an ack that nobody wrote is not,
and the phone was rung.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from random import Random

from tests.faults.accounts import Result, audit
from tests.faults.lines import App, Death, Desk, now
from tests.faults.stage import TIMING, Stage, spread, stage

EARLIEST, LATEST = -0.010, 0.050  # seconds of the death, from the send
DELIVERY = TIMING | {"ack_timeout": 2.5}
TICK = 0.005  # seconds by which two clocks of one machine may differ
CUT = frozenset({Death.RESET, Death.FIN, Death.GOING_AWAY})
ASLEEP = frozenset({Death.SILENCE, Death.BACKGROUND})


class Acks(StrEnum):
    """When the client acknowledges."""

    AT_ONCE = "at once"
    DYING = "in its last moment"
    NEVER = "never"
    LATE = "late"


@dataclass(slots=True)
class Trial:
    """One customer's death, and what it knows of it."""

    app: App
    death: Death
    acks: Acks
    returns: bool
    offset: float
    sent_at: float = 0.0
    died_at: float = 0.0
    surely_acked: bool = False
    perhaps_acked: bool = False
    alone: bool = True
    """Nobody came back or answered late: the phone is what is left."""

    @property
    def reason(self) -> str:
        """Why the phone is rung if nobody acknowledges: only silence keeps a customer in chat."""
        return "ack_timeout" if self.death is Death.SILENCE else "not_in_chat"

    @property
    def name(self) -> str:
        return f"{self.app.sub} ({self.death}, acks {self.acks}, {self.offset * 1000:+.1f} ms)"


def _drawn(stage: Stage, i: int, rng: Random) -> Trial:
    round, which = divmod(i, len(Death))
    death, acks = list(Death)[which], list(Acks)[round % len(Acks)]
    app = stage.app(f"d-{i}", acks=acks is Acks.AT_ONCE)
    returns = rng.random() < 0.5 and (death not in ASLEEP or acks is Acks.LATE)
    return Trial(app, death, acks, returns, rng.uniform(EARLIEST, LATEST))


async def _play(stage: Stage, trial: Trial, desk: Desk, rng: Random) -> None:
    app = trial.app
    await app.come(stage.port)
    await app.register()
    start = now() + 0.012
    dying = asyncio.create_task(_die(trial, start + trial.offset))
    await _until(start)
    trial.sent_at = now()
    await desk.write(app.sub, f"to {app.sub}")
    await dying
    if trial.returns:
        trial.alone = False
        await _return(stage, trial, rng)


async def _die(trial: Trial, when: float) -> None:
    app = trial.app
    await _until(when)
    if trial.acks is Acks.DYING:
        app.ack()
    if app.acked:
        trial.perhaps_acked = True
        trial.surely_acked = trial.death is not Death.RESET  # which may throw it away
    if trial.death is Death.SILENCE:
        app.acks = False
    trial.died_at = now()
    app.line.die(trial.death)
    if trial.death is Death.BACKGROUND and trial.acks is Acks.LATE:
        app.acks = True
        app.ack()  # noted, and nothing else until it is active again


async def _return(stage: Stage, trial: Trial, rng: Random) -> None:
    """Come back by a new socket, or wake up: in time, or after the phone was rung."""
    app = trial.app
    if trial.death is Death.SILENCE:
        await _until(trial.sent_at + DELIVERY["ack_timeout"] * rng.uniform(0.5, 1.5))
        app.acks = True
        app.line.wake()
        app.ack()
    elif trial.death is Death.BACKGROUND:
        await _until(trial.died_at + rng.uniform(0.0, 0.2))
        app.line.send("state", state="active")
    else:
        await _until(trial.died_at + DELIVERY["disconnect_grace"] * rng.uniform(0.0, 2.0))
        app.acks = trial.acks is not Acks.NEVER
        await app.come(stage.port, resume=app.acks)
    if app.acks:
        trial.surely_acked = trial.perhaps_acked = True


async def _until(when: float) -> None:
    await asyncio.sleep(when - now())


def _false(stage: Stage, trials: list[Trial]) -> list[str]:
    """Where the records and the clients' own truth differ."""
    recorded = stage.facts("acked")
    outcomes = stage.outcomes()
    calls = stage.calls()
    reasons = stage.reasons()
    found = []
    for trial in trials:
        sub = trial.app.sub
        outcome, rung = outcomes[sub, 1], len(calls.get(sub, ()))
        if trial.surely_acked and sub not in recorded:
            found.append(f"{trial.name}: its ack was not recorded")
        if not trial.perhaps_acked and (sub in recorded or outcome != "pushed"):
            found.append(f"{trial.name}: it acknowledged nothing, and is {outcome}")
        if sub in recorded and outcome == "acked" and rung and trial.alone:
            found.append(f"{trial.name}: rung, though acked")
        if trial.alone and not trial.perhaps_acked and reasons.get(sub) != trial.reason:
            found.append(f"{trial.name}: rung for {reasons.get(sub)}")
        if rung > 1:
            found.append(f"{trial.name}: rung {rung} times")
    for group, times in times_to_push(stage, trials).items():
        latest = (
            DELIVERY["ack_timeout"] - DELIVERY["disconnect_grace"]
        )  # it had not to wait so long
        found += [
            f"{group}: rung {seconds * 1000:.0f} ms after its time"
            for seconds in times
            if seconds < -TICK or (group != "silent" and seconds > latest)
        ]
    return found + stage.wrong


def times_to_push(stage: Stage, trials: list[Trial]) -> dict[str, list[float]]:
    """Seconds from death to push beyond what is configured, for those who stayed away."""
    times: dict[str, list[float]] = {"cut": [], "left": [], "silent": []}
    calls = stage.calls()
    for trial in trials:
        if trial.perhaps_acked or not trial.alone:
            continue
        if trial.app.sub not in calls:
            continue  # which `_false` has found
        called = calls[trial.app.sub][0].at
        if trial.death in CUT:
            times["cut"].append(called - trial.died_at - DELIVERY["disconnect_grace"])
        elif trial.death is Death.SILENCE:
            times["silent"].append(called - trial.sent_at - DELIVERY["ack_timeout"])
        else:
            times["left"].append(called - max(trial.died_at, trial.sent_at))
    return times


async def disconnects(
    directory: Path, deaths: int, together: int = 20, seed: int = 0
) -> tuple[Result, list[Trial]]:
    """`deaths` trials, `together` at a time; and the trials themselves."""
    rng = Random(seed)
    async with stage(directory, delivery=DELIVERY) as it:
        slots = asyncio.Semaphore(together)
        trials = [_drawn(it, i, rng) for i in range(deaths)]

        async def play(i: int, trial: Trial) -> None:
            async with slots:
                await _play(it, trial, it.desk(i), rng)

        await asyncio.gather(*(play(i, trial) for i, trial in enumerate(trials)))
        await it.settled()
        await it.recorded("acked", [trial.app.sub for trial in trials if trial.surely_acked])
        result = audit("disconnects", deaths, it.path, it.confirmed, it.ears.calls)
        times = times_to_push(it, trials)
        ends = Counter(it.outcomes().values())
        note = (
            f"{ends['acked']:,} acked, {ends['pushed']:,} pushed;"
            f" to push, cut, beyond the grace: {spread(times['cut'])};"
            f" left: {spread(times['left'])};"
            f" silent, beyond ack_timeout: {spread(times['silent'])}"
        )
        found = [*result.unaccounted, *_false(it, trials)]
        return replace(result, unaccounted=found, note=note), trials


async def _ten_thousand(directory: Path) -> Result:
    return (await disconnects(directory, 10_000))[0]


LONG = (_ten_thousand,)
