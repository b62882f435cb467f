"""What a list of all processes costs, beside psutil's."""

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import procmon

from .measure import Row, row, seconds_of
from .rivals import PACKAGES

FIELDS = ["pid", "ppid", "create_time"]
"""Wine answers no more of psutil's questions about the processes of others: not their paths."""
REPEATS = 20


def rows() -> Iterator[Row]:
    """Measure; each process is one that runs."""
    sys.path.append(str(PACKAGES))
    psutil: Any = import_module("psutil")
    count = len(procmon.processes())
    yield row(
        "procmon.processes(), a process, with its path",
        lambda: seconds_of(lambda: [procmon.processes() for _ in range(REPEATS)]),
        lambda: seconds_of(lambda: [list(psutil.process_iter(FIELDS)) for _ in range(REPEATS)]),
        f"psutil.process_iter({FIELDS})",
        count=count * REPEATS,
    )
