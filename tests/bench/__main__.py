"""Measure, print a line for each row, and write build/bench.json; ``python3 dev.py bench [NAME ...]`` calls this."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from . import imports, monitor, policy, records
from .measure import Row

RESULTS = Path(__file__).resolve().parents[2] / "build" / "bench.json"

GROUPS: dict[str, Callable[[], Iterator[Row]]] = {
    "monitor": monitor.rows,
    "records": records.rows,
    "policy": policy.rows,
    "imports": imports.rows,
}
if sys.platform == "win32":
    from . import windows

    GROUPS |= {"windows": windows.rows}


def main(names: list[str]) -> int:
    """Measure the groups of these names, or all."""
    if unknown := [name for name in names if name not in GROUPS and name != "windows"]:
        print(f"bench: {unknown[0]!r} is no benchmark; there are {', '.join([*GROUPS, 'windows'])}", file=sys.stderr)
        return 2
    machine = f"Python {platform.python_version()} on {sys.platform}, {os.cpu_count()} processors"
    print(machine, flush=True)
    measured: dict[str, list[dict[str, object]]] = {}
    for name, rows in GROUPS.items():
        if not names or name in names:
            begin = time.monotonic()
            measured[name] = []
            for row in rows():
                print(row, flush=True)
                measured[name].append(asdict(row))
            print(f"  {name}: {time.monotonic() - begin:.0f} s", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    known = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    known[sys.platform] = known.get(sys.platform, {}) | {"machine": machine, "at": datetime.now(UTC).isoformat()}
    known[sys.platform]["rows"] = known[sys.platform].get("rows", {}) | measured
    RESULTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
