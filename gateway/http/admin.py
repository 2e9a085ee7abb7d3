"""The admin listener's calls: liveness, readiness and metrics, for the machines of its operator.

Decides when a gateway is ready: while the database takes what is written, and no drain runs. It
asks nobody who they are, and says nothing of customers.
"""

from __future__ import annotations

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from gateway.context import Context
from gateway.metrics import Metrics
from storage.errors import Unavailable

READY_WITHIN = 5.0  # seconds that a commit may take, or the gateway is not ready


def admin(context: Context, metrics: Metrics) -> web.Application:
    """The admin listener's application: liveness, readiness, metrics."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        if context.draining:
            return web.Response(text="draining\n", status=503)
        try:
            async with asyncio.timeout(READY_WITHIN):
                await context.store.check()
        except Unavailable as error:
            return web.Response(text=f"{error}\n", status=503)
        except TimeoutError:
            text = f"the database was not written for {READY_WITHIN:g} seconds\n"
            return web.Response(text=text, status=503)
        return web.Response(text="ok\n")

    writing = asyncio.Lock()  # one at a time: each would take as long from the loop's thread

    async def exposition(request: web.Request) -> web.Response:
        async with writing:
            text = await asyncio.to_thread(metrics.now())
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", healthz),
            web.get("/readyz", readyz),
            web.get("/metrics", exposition),
        ]
    )
    return app
