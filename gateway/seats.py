"""Seats: whose the open sockets are, so that no tenant's clients keep another's out (I8).

Decides whether one more session of a tenant may begin. `gateway.sockets` bounds all connections
together, before anybody has said who they are; here they are counted by tenant, from the hello to
the end. A tenant takes as many as it likes while most are free; the last ones are kept for those
who have less than their equal share.
"""

from __future__ import annotations

from collections import defaultdict

KEPT = 10  # of the connections one in so many is kept


class Seats:
    """The sessions of each tenant, within `limits.connections`."""

    def __init__(self, connections: int, tenants: int) -> None:
        self._for_all = connections - connections // KEPT
        self._share = max(1, connections // max(1, tenants))
        self._taken = 0
        self._of: defaultdict[str, int] = defaultdict(int)

    def take(self, tenant: str) -> bool:
        """Take one for a session of `tenant`; False if there is none for it."""
        if self._taken >= self._for_all and self._of[tenant] >= self._share:
            return False
        self._taken += 1
        self._of[tenant] += 1
        return True

    def leave(self, tenant: str) -> None:
        """Give one back."""
        self._taken -= 1
        self._of[tenant] -= 1
