"""What one tenant's operators see: `GET /v1/ops`, the figures of the metrics that are their own.

The metrics are the whole gateway's, on a listener for whoever runs it. This is for a tenant: its
sessions, messages, looks, calls and backends, and nothing of another's (I8). Decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from gateway import protocol
from gateway.context import Context
from gateway.http.api import Api
from gateway.http.calls import as_json
from gateway.metrics import ByTenant, Metrics, Seconds
from gateway.protocol import Role
from push.worker import Load
from storage.records import Outcome

QUANTILES = (0.5, 0.95, 0.99)


class OpsCalls:
    """The call; who may make it is judged by `api`."""

    def __init__(
        self,
        api: Api,
        context: Context,
        metrics: Metrics,
        loads_of: Callable[[str], Mapping[str, Load]],
    ) -> None:
        """`loads_of` tells how a tenant's endpoints are, by backend, and what waits for each."""
        self._api = api
        self._context = context
        self._metrics = metrics
        self._loads_of = loads_of

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/ops", self.figures)]

    async def figures(self, request: web.Request) -> web.Response:
        """What is, and what was since the gateway's start."""
        tenant = self._api.who(request, Role.SERVICE).tenant
        metrics, context = self._metrics, self._context
        names = ("accepted", *(outcome.value for outcome in Outcome))
        return as_json(
            {
                "tenant": tenant,
                "server_time": protocol.timestamp(context.clock()),
                "draining": context.draining,
                "sessions": context.hub.counts(tenant),
                "messages": {name: context.store.counters[tenant, name] for name in names},
                "looks": _counted(metrics.looks, tenant, "action", "reason"),
                "attempts": _counted(metrics.attempts, tenant, "verdict", "reason"),
                "dead_letters": _counted(metrics.dead_letters, tenant, "cause"),
                "call_seconds": _seconds(metrics.calls, tenant),
                "ring_seconds": _seconds(metrics.rings, tenant),
                "backends": [
                    {
                        "name": name,
                        "waiting": load.waiting,
                        "calling": load.working,
                        "state": _state(open=load.open, suspended=load.suspended),
                    }
                    for name, load in sorted(self._loads_of(tenant).items())
                ],
            }
        )


def _state(*, open: bool, suspended: bool) -> str:
    return "suspended" if suspended else "down" if open else "up"


def _counted(counted: ByTenant, tenant: str, *names: str) -> list[dict[str, Any]]:
    """What was counted for the tenant, by the further labels; the largest first."""
    found = counted.get(tenant, {}).items()
    told = [{**dict(zip(names, of, strict=True)), "count": many} for of, many in found if many]
    return sorted(told, key=lambda one: -one["count"])


def _seconds(taken: Mapping[str, Seconds], tenant: str) -> dict[str, Any]:
    """How many there were, and quantiles in seconds: None where there were none."""
    mine = taken.get(tenant)
    buckets = mine.buckets() if mine is not None else []
    told = {f"p{part * 100:.0f}": quantile(buckets, part) for part in QUANTILES}
    return {"count": buckets[-1][1] if buckets else 0, **told}


def quantile(buckets: Sequence[tuple[float, float]], part: float) -> float | None:
    """The value below which `part` of what was counted lies, evenly spread within its bucket.

    `buckets` are upper bounds with how many were at or below each, rising, as Prometheus has them;
    the last bound is infinite, and what lies beyond the one before is told as that one.
    """
    if not buckets or not buckets[-1][1]:
        return None
    wanted = part * buckets[-1][1]
    low, below = 0.0, 0.0
    for high, until in buckets:
        if until >= wanted:
            if math.isinf(high):
                return low
            return round(low + (high - low) * (wanted - below) / (until - below), 4)
        low, below = high, until
    return low
