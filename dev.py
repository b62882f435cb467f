#!/usr/bin/env python3
"""One script for everything a person does with this project, on Debian and on Windows.

    python3 dev.py wine -- ARGS       run the Windows Python on ARGS, with the package on its path

Each command sets up what it needs, and is quick when nothing is missing. docs/development.md tells more.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "tests"))

import environment  # noqa: E402 - it lies in tests, which is on the path only now


def wine(arguments: Sequence[str], fresh: bool) -> int:
    """Run the Windows Python, under Wine on Debian, and return its exit status."""
    if fresh and sys.platform != "win32":
        with environment.private_prefix() as prefix:
            return environment.run_windows(arguments, prefix)
    return environment.run_windows(arguments)


def main() -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="dev.py", description="Everything a person does with this project.")
    commands = parser.add_subparsers(dest="command", required=True)
    wine_parser = commands.add_parser("wine", help="run the Windows Python, with the package on its path")
    wine_parser.add_argument("--fresh", action="store_true", help="in a new Windows of its own, gone afterwards")
    wine_parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ARGS")
    options = parser.parse_args()
    try:
        arguments = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
        return wine(arguments, options.fresh)
    except environment.Stop as stop:
        print(f"dev.py: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
