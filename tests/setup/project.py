"""The project's folders, and the set-up's reports of progress and failure."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / ".dev"
PINS = ROOT / "tests" / "pins"


class Stop(Exception):
    """The command cannot go on. The message says why, and what to do."""


def report(text: str) -> None:
    """Report a step in one line on standard error. Standard output belongs to the program that is run."""
    print(f"dev: {text}", file=sys.stderr, flush=True)
