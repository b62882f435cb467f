"""Measure, print a line for each row, and write build/bench.json: ``python -m bench PLACE NAME...``, see dev.py."""

import json
import os
import platform
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from .measure import Row

RESULTS = Path(__file__).resolve().parents[2] / "build" / "bench.json"


def main(place: str, *names: str) -> int:
    """Measure the groups of these names; their rows take the place of earlier ones in the file."""
    machine = f"Python {platform.python_version()} on {sys.platform}, {os.cpu_count()} processors"
    print(machine, flush=True)
    measured: dict[str, object] = {}
    for name in names:
        begin = time.monotonic()
        rows: list[Row] = []
        for row in import_module(f"bench.{name}").rows():
            print(row, flush=True)
            rows.append(row)
        seconds = time.monotonic() - begin
        print(f"  {name}: {seconds:.0f} s", flush=True)
        at = datetime.now(UTC).isoformat(timespec="seconds")
        measured[name] = {"machine": machine, "at": at, "seconds": seconds, "rows": [asdict(row) for row in rows]}
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(known | {place: known.get(place, {}) | measured}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
