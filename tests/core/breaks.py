#!/usr/bin/env python3
"""Break the core on purpose, one line at a time, in a copy of the tree, and check that the tests fail.

    python3 tests/core/breaks.py [NAME ...]

    the verdict for one pid reaches the next   test_handshake.py -k does_not_reach     red, as it should be
    ...

The breaks are in breaks/*.toml: `old` becomes `new` in one file, and each test of `seen_by` must then fail.

The exit status is 0 only if each test of `seen_by` fails for its break and passes without one. This takes some minutes.
test_breaks.py, which is quick, checks that each break still fits the sources.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
NEEDED = ("driver", "src", "tests/core", "tests/patience.py", "pyproject.toml")

TESTS = {
    "HANDSHAKE": "test_handshake.py",  # points 1 to 7
    "HANDSHAKE_ENDS": "test_handshake_ends.py",  # points 8 to 10
    "LIMITS": "test_handshake_limits.py",  # points 11 to 13
    "DEVICE": "test_handshake_limits.py -k Device",  # point 12
    "WAYS": "test_ways_around.py",
    "MODEL": "test_model.py",
    "MEMORY": "test_memory.py",
    "THREADS": "test_proofs.py -k many_threads",
    "RACES": "test_proofs.py -k (many_threads and not address)",
    "ADDRESSES": "test_proofs.py -k (many_threads and address)",
    "FUZZER": "test_proofs.py -k any_bytes",
    "ORDERS": "test_proofs.py -k every_order",
    "KERNEL": "test_kernel_side.py -k address",
    "SCALING": "test_scaling.py",
}
"""The names in `seen_by`, and their arguments of pytest."""


@dataclass(frozen=True)
class Break:
    """`old` becomes `new` in one file; each of `seen_by` (arguments of pytest) must then fail."""

    name: str
    file: str
    old: str
    new: str
    seen_by: tuple[str, ...]


def _read(path: Path) -> list[Break]:
    breaks = tomllib.loads(path.read_text("utf-8"))["break"]
    return [Break(**item | {"seen_by": tuple(TESTS[name] for name in item["seen_by"])}) for item in breaks]


BREAKS = tuple(item for path in sorted((PROJECT / "tests/core/breaks").glob("*.toml")) for item in _read(path))


def broken(item: Break, text: str) -> str:
    """The file's text with the break in it. Raises: ValueError when the break no longer fits."""
    if text.count(item.old) != 1:
        raise ValueError(f"{item.file} has {text.count(item.old)} places for the break {item.name!r}; it needs one")
    return text.replace(item.old, item.new)


def is_green(copy: Path, test: str) -> bool:
    """Does this test pass in the copy? The code is built first: a break that does not compile is an error."""
    variants = ["kernel-address-undefined"] if test == TESTS["KERNEL"] else ["host"]
    built = subprocess.run([sys.executable, "driver/build.py", *variants], cwd=copy, capture_output=True, text=True)
    if built.returncode != 0:
        raise RuntimeError(f"it does not compile\n{built.stderr}")
    file, *options = test.split(" ", 2)
    options += ["-x", "-q", "-p", "no:cacheprovider", "-o", "faulthandler_timeout=0"]  # the programs are built in tests
    result = subprocess.run(
        [sys.executable, "-m", "pytest", f"tests/core/{file}", *options],
        cwd=copy, capture_output=True, text=True, env=os.environ | {"PROCMON_SHRINK": "0"},
    )  # fmt: skip
    if result.returncode not in (0, 1, -4, -5, -6, -11):  # red is an ordinary failure, or a crash in the library
        raise RuntimeError(f"{test}: pytest ended with {result.returncode}\n{result.stdout}{result.stderr}")
    return result.returncode == 0


def main(names: list[str]) -> int:
    chosen = [item for item in BREAKS if not names or any(name in item.name for name in names)]
    unseen = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in NEEDED:
            source = PROJECT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
            else:
                shutil.copy2(source, copy / name)
        for test in sorted({test for item in chosen for test in item.seen_by}):
            if not is_green(copy, test):
                print(f"{test} is red without a break: repair that first", file=sys.stderr)
                return 2
        for item in chosen:
            path = copy / item.file
            text = path.read_text("utf-8")
            path.write_text(broken(item, text), "utf-8")
            for test in item.seen_by:
                green = is_green(copy, test)
                unseen += green
                print(f"{item.name:68} {test:54} {'GREEN: NOT SEEN' if green else 'red, as it should be'}", flush=True)
            path.write_text(text, "utf-8")
    return 1 if unseen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
