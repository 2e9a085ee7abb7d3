"""Open files: how many a gateway may have, and whether its configured connections fit.

A socket is a file to the kernel, and most systems allow a process 1,024 of them by default, with a
much higher limit that it may give itself. Decides nothing about which connection is refused: that
is `limits.connections` and `limits.http_connections`.
"""

from __future__ import annotations

import resource

from gateway.config.sections import Limits

RESERVE = 200
"""Files beside the connections of clients: the database, listeners, calls."""


def make_room(limits: Limits) -> str | None:
    """Raise this process's limit of open files as far as it may; a warning if it is too low.

    The warning is one line for the operator: not all of `limits.connections` can be served.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # macOS refuses what is above kern.maxfilesperproc
        pass
    others = limits.http_connections + RESERVE
    wanted = limits.connections + others
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    return (
        f"limits.connections is {limits.connections}, but this process may open only {soft} files: "
        f"allow it {wanted} (LimitNOFILE= in systemd, ulimit -n in a shell) "
        f"or set limits.connections to {max(1, soft - others)}"
    )
