"""Which of a tenant's backends a device's rings go to.

A backend is for one environment, and for one app or for all. A device that tells no environment is
in `production`. Environments are never crossed: a device of `sandbox` rings at a backend for
`sandbox` or not at all, so that a tester's token never reaches production and no customer's the
test backend. Within the environment the backend of the device's app goes before that of all apps.

Decides nothing else. Pure. How a backend is called is in `push.ring.Endpoint`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

PRODUCTION: Final = "production"


class Backend(msgspec.Struct, frozen=True):
    """Whom one of a tenant's backends is for.

    `name` is unique within the tenant, "" for the tenant's own; `app` is None for all.
    `silent`: what only corrects the number on the icon can be said there.
    """

    name: str = ""
    environment: str = PRODUCTION
    app: str | None = None
    silent: bool = True


OWN: Final = Backend()
"""The tenant's own: of production, and of every app that has none of its own there."""


def choose(backends: Iterable[Backend], environment: str | None, app: str | None) -> Backend | None:
    """Return the backend of a device that told `environment` and `app`, or None: it has none."""
    meant = environment or PRODUCTION
    found: Backend | None = None
    for backend in backends:
        if backend.environment == meant and backend.app is None:
            found = found or backend
        elif backend.environment == meant and backend.app == app:
            return backend
    return found
