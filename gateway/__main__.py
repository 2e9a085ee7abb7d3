"""The command's entry, also as `python -m gateway`.

What comes before anything is there to take it is no accident: a reload that is asked for while the
gateway starts is held back until it can be done, and Ctrl-C ends it without a word. A standard
stream that was closed leads nowhere: libuv aborts the process when it closes a socket that was
given such a number.
"""

from __future__ import annotations

import gc
import os
import signal
import sys


def main() -> None:
    """Run the command line."""
    while (nothing := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(nothing)
    if sys.argv[1:2] == ["serve"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until `serve` takes it
    gc.set_threshold(50_000)  # what is imported stays: looking through it is a tenth of a start
    try:
        from gateway.commands import cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli.main()


if __name__ == "__main__":
    main()
