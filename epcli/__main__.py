"""The `ep` program; `python -m epcli` is the same.

It imports next to nothing itself, so that Ctrl-C while the command line is still being read in is heard as well.
"""

from __future__ import annotations

import gc
import signal
import sys

from epcli.errors import EXIT_INTERRUPT


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from epcli import streams

        streams.prepare()

        from epcli.cli import main as run

        run()
    except KeyboardInterrupt:  # before the command line could say so, or after it had ended
        if sys.stderr is not None:  # closed; print() would write to standard output
            print("ep: interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPT)
    finally:
        # All is said and written: from here on Ctrl-C ends Python at once, with no traceback out of its closing down.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        # An interrupt that broke off an exec() of text, as dataclasses use, was handled above, yet CPython would still
        # die of it at exit and hide the exit code. It forgets when another exec() ends well.
        exec("")
        # The libraries' objects need no last collection: the process ends, and it would take half a second.
        gc.freeze()


if __name__ == "__main__":
    main()
