"""The command's entry, also as `python -m gateway`.

What comes before anything is there to take it: a reload that is asked for while the gateway starts
has nothing to reload, and Ctrl-C has nothing to stop. Neither is an accident.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line."""
    if sys.argv[1:2] == ["serve"]:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until `serve` reads its configuration anew
    try:
        from gateway import cli
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    cli.main()


if __name__ == "__main__":
    main()
