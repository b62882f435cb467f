"""What ``import procmon`` costs beside what it cannot do without."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

from .measure import Row, row

FLOOR = "import ctypes, dataclasses, enum, logging"


def rows() -> Iterator[Row]:
    """Measure."""
    yield row(
        "import procmon, seconds of a new Python",
        lambda: _seconds("import procmon"),
        lambda: _seconds(FLOOR),
        f"`{FLOOR}`",
        goal="1.3x",
    )
    mine, floor = _modules("import procmon"), _modules(FLOOR)
    beyond = [name for name in mine if name not in floor and not name.startswith("procmon")]
    print(f"  standard-library modules beyond those: {len(beyond)} (goal 15)", flush=True)


def _seconds(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    return time.perf_counter() - begin


def _modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())
