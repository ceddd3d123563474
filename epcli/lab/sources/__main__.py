"""`python -m epcli.lab.sources --out DIR`: build the library of training media."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from epcli.errors import EpError


def main() -> int:
    """Build the library, print what it holds."""
    parser = argparse.ArgumentParser(prog="python -m epcli.lab.sources", description=__doc__)
    goal = parser.add_mutually_exclusive_group(required=True)
    goal.add_argument("--out", type=Path, help="folder the library is written to")
    goal.add_argument("--table", action="store_true", help="print the table of packages for docs/sources.md and stop")
    parser.add_argument("--work", type=Path, help="folder for downloads (default: OUT/../packages)")
    args = parser.parse_args()
    if args.table:
        from epcli.lab.sources import fetch

        print(fetch.table())
        return 0
    out = args.out.resolve()
    started = time.monotonic()
    try:
        from epcli.lab.sources import build

        counts = build.build(out, (args.work or out.parent / "packages").resolve())
    except ImportError as error:
        print(f"{error.name} is not installed: pip install -e '.[lab]'", file=sys.stderr)
        return EpError.exit_code
    except EpError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for what, n in counts.items():
        print(f"{n:6} {what}")
    print(f"written to {args.out} in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
