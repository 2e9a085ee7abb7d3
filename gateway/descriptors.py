"""Open files: how many a gateway may have, and whether its configured connections fit.

A socket is a file to the kernel, and most systems allow a process 1,024 of them by default, with a
much higher limit that it may give itself. Decides nothing about which connection is refused: that
is `limits.connections`.
"""

from __future__ import annotations

import resource

RESERVE = 200
"""Files beside the customers' and agents' sockets: the database, listeners, HTTP, calls."""


def make_room(connections: int) -> str | None:
    """Raise this process's limit of open files as far as it may; a warning if it is too low.

    The warning is one line for the operator: `connections` sockets cannot be served.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    except (OSError, ValueError):  # macOS refuses what is above kern.maxfilesperproc
        pass
    wanted = connections + RESERVE
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return None
    return (
        f"limits.connections is {connections}, but this process may open only {soft} files: "
        f"allow it {wanted} (LimitNOFILE= in systemd, ulimit -n in a shell) "
        f"or set limits.connections to {max(1, soft - RESERVE)}"
    )
