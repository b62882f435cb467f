#!/usr/bin/env python3
"""Makes docs/guarantees.md from the marks of tests, so that the page has no promise and no fault without a test.

    python3 tests/guarantees.py

    @pytest.mark.promise("Each start is decided exactly once", gate="all")
    @pytest.mark.fault("the controller is killed", gate="DriverGate", held="runs", told="-", counted="-", written="-")

A promise may have a `figure`, from its last long run. Marks are read from the source, not from a run, so their
arguments are plain texts. The C++ scenarios of the made-up kernel have theirs in comments above the function:
``// fault: NAME | held | told | counted | written``. tests/unit/test_guarantees.py compares the page with the marks.
"""

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import made_page

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "guarantees.md"

FAULT_KEYS = ("gate", "held", "told", "counted", "written")


@dataclass(frozen=True)
class Mark:
    """One mark of one test."""

    kind: str
    text: str
    values: dict[str, str]
    test: str
    """Its path and name, in pytest's form."""

    @property
    def place(self) -> str:
        """A link to the test's file, with its name."""
        path, _, name = self.test.partition("::")
        return f"[{name.replace('::', '.')}](../{path})"


def marks(root: Path = ROOT) -> list[Mark]:
    """All marks of all tests, in the order of files and lines. Raises: ValueError for a malformed mark."""
    found: list[Mark] = []
    for path in sorted((root / "tests").glob("*/test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += _in_body(tree.body, path.relative_to(root).as_posix())
    for path in sorted((root / "driver" / "host" / "kernel").glob("scenarios*.cpp")):
        found += _in_scenarios(path, root)
    return found


def _in_body(body: list[ast.stmt], prefix: str) -> Iterator[Mark]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        name = f"{prefix}::{node.name}"
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and (kind := _kind(decorator.func)):
                yield _mark(kind, decorator, name)
        if isinstance(node, ast.ClassDef):
            yield from _in_body(node.body, name)


def _kind(function: ast.expr) -> str:
    found = re.fullmatch(r"pytest\.mark\.(promise|fault)", ast.unparse(function))
    return found[1] if found else ""


def _mark(kind: str, call: ast.Call, name: str) -> Mark:
    try:
        (text,) = [ast.literal_eval(argument) for argument in call.args]
        values = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in call.keywords}
    except ValueError as error:
        raise ValueError(f"{name}: a mark has one text, and texts by keyword: {error}") from error
    wanted = {"promise": {"gate"}, "fault": {*FAULT_KEYS}}[kind]
    if values.keys() - ({"figure"} if kind == "promise" else set()) != wanted:
        raise ValueError(f"{name}: {kind} takes {', '.join(sorted(wanted))}, not {', '.join(sorted(values))}")
    return Mark(kind, text, values, name)


def _in_scenarios(path: Path, root: Path) -> Iterator[Mark]:
    text = path.read_text(encoding="utf-8")
    for fault, function in re.findall(r"^// fault: (.*)\n(?://.*\n)*void (\w+)\(", text, re.MULTILINE):
        name, *values = (part.strip() for part in fault.split("|"))
        if len(values) != 4:
            raise ValueError(f"{path.name}: {function}: a fault has a name and four values, between bars")
        keys = dict(zip(FAULT_KEYS, ["driver, made-up kernel", *values], strict=True))
        yield Mark("fault", name, keys, f"{path.relative_to(root).as_posix()}::{function}")


def page(found: list[Mark]) -> str:
    """The whole page."""
    promises: dict[str, list[Mark]] = {}
    faults: dict[str, list[Mark]] = {}
    for mark in found:
        (promises if mark.kind == "promise" else faults).setdefault(mark.text, []).append(mark)
    rows = [
        f"| {text} | {mark.values['gate']} | {mark.place} | {mark.values.get('figure', '')} |"
        for text, of in promises.items()
        for mark in of
    ]
    cells = [
        f"| {text if number == 0 else ''} | {' | '.join(mark.values[key] for key in FAULT_KEYS)} | {mark.place} |"
        for text, of in sorted(faults.items())
        for number, mark in enumerate(of)
    ]
    return TEMPLATE.format(promises="\n".join(rows), faults="\n".join(cells))


TEMPLATE = """\
# Guarantees

Each promise, and the test that shows it. `tests/guarantees.py` makes this page from marks in the
tests, so a promise without a test cannot appear here.

## Promises

| promise | gates | test | last long run |
|---|---|---|---|
{promises}

## Faults

For each fault: what happens to a held process, what the controller sees, which counters count it,
and what the audit log has. "-" means nothing.

| fault | gate | the held process | the controller sees | counters | audit log | test |
|---|---|---|---|---|---|---|
{faults}

## What runs where

`python3 dev.py test` runs all of these tests; `--long` runs the load tests for longer. The test
rings, and what is untested: [testing.md](testing.md).

## Pythons

| CPython | from | ran |
|---|---|---|
| 3.11.2 | Debian 12 | every ring; the Windows ring under Wine 8.0 |
| 3.13.5 | Debian 13 | every ring; the Windows ring under Wine 10.0 |
| 3.13.2 for 64-bit Windows | PyPI | the Windows ring, under Wine 8.0 and 10.0 |
| 3.14.6 for 32-bit Windows | PyPI | the gates, the driver and its service, under Wine 8.0 and 10.0 |
| 3.12.0 for 64-bit Windows | PyPI | the gates, details and the monitor, under Wine 8.0 |
| 3.14.10, 3.15.2 | Debian unstable | the unit ring |
| 3.13.5, free-threaded, `PYTHON_GIL=0` | built from Debian's sources | the unit ring, less tests with mypy or Tk |

Not tested: 3.12 on Linux, free-threaded 3.14, any Python on Windows itself.
[checks.yml](../.github/workflows/checks.yml) has jobs for them, and has not been run.
"""


if __name__ == "__main__":
    sys.exit(made_page.main(__file__, PAGE, page(marks())))
