"""What ``import procmon`` costs beside what it cannot do without."""

import os
import subprocess
import sys
from collections.abc import Iterator

from .measure import Row, resident_bytes, row, row_of, seconds_of

FLOOR = "import ctypes, dataclasses, enum, logging"
TURNS = 7
WITH_BYTECODE = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""The environment: the first turn, which is not counted, compiles the modules for all others."""


def rows() -> Iterator[Row]:
    """Measure."""
    yield row(
        "import procmon, a new Python from start to end",
        lambda: _cost("import procmon"),
        lambda: _cost(FLOOR),
        f"`{FLOOR}`",
        turns=TURNS,
        at_most_ratio=1.3,
    )
    memory = [[_megabytes(code) for code in ("pass", "import procmon", FLOOR)] for _ in range(TURNS)]
    yield row_of(
        "import procmon, memory beyond a bare Python",
        [mine - bare for bare, mine, _ in memory],
        [floor - bare for bare, _, floor in memory],
        "those four",
        unit="MB",
        at_most=6,
    )
    mine, floor = _modules("import procmon"), _modules(FLOOR)
    beyond = [name for name in mine - floor if not name.startswith("procmon")]
    yield row_of(
        "import procmon, modules of the standard library",
        [float(len(beyond))],
        [float(len(floor))],
        "the modules of those four",
        unit="more",
        at_most=15,
    )


def _cost(code: str) -> float:
    """Seconds of CPU of a new Python; on Windows, which does not tell that of a child that has gone, on the clock."""
    begin = _children_cpu()
    seconds = seconds_of(lambda: subprocess.run([sys.executable, "-c", code], check=True, env=WITH_BYTECODE))
    return _children_cpu() - begin or seconds


def _children_cpu() -> float:
    """Seconds of CPU of the children that have ended; 0 on Windows."""
    if sys.platform == "win32":
        return 0.0
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _megabytes(code: str) -> float:
    """The memory of a new Python that has run this."""
    command = [sys.executable, "-c", f"{code}\nprint()\ninput()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=WITH_BYTECODE) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdout.readline()
        used = resident_bytes(process)
        print(file=process.stdin, flush=True)
    return used / 1e6


def _modules(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"], check=True, capture_output=True, text=True
    )
    return set(done.stdout.split())
