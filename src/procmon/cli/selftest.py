"""``procmon-gate selftest``: checks the guarantees of procmon on this machine, with programs that every Windows has.

The same checks run over the debug API and, with ``--driver``, over the driver. The result is a table, and a JSON file
for a bug report.
"""

import argparse
import json
import os
import platform
import re
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from .. import __version__
from ..driver.service import DriverService
from ..errors import UnsupportedPlatform
from ..win32 import kernel, machine
from .selftest_checks import CHECKS, DebugGround, DriverGround, Failed, Ground, NotTried, expect
from .statuses import FOUND

__all__ = ["Check", "examine", "selftest"]


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    gate: str
    name: str
    promise: str
    result: str
    """``ok``, ``FAILED`` or ``not tried``."""
    seconds: float
    detail: str = ""
    """What the check saw, or why it was not tried."""


def selftest(options: argparse.Namespace, out: TextIO) -> int:
    """Make the checks, print the table, write the JSON; 1 when a promise was not kept."""
    if sys.platform != "win32":
        raise UnsupportedPlatform(
            f"selftest needs Windows, and this is {sys.platform}; `procmon-gate policy` works here"
        )
    grounds: list[Ground] = [DebugGround(), *([DriverGround()] if options.driver else [])]
    began, checks = time.monotonic(), []
    report = describe_machine()
    if not options.json:
        print("procmon {procmon}, {system}, Python {python}, {bits} bits".format(**report), file=out)
    for check in examine(grounds):
        checks.append(check)
        print(json.dumps(asdict(check)) if options.json else _row(check), file=out, flush=True)
    report["checks"] = [asdict(check) for check in checks]
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    results = [check.result for check in checks]
    passed, failed, left = (results.count(result) for result in ("ok", "FAILED", "not tried"))
    if not options.json:
        seconds = time.monotonic() - began
        print(
            f"{passed} ok, {failed} failed, {left} not tried, {seconds:.1f} s; for a report: {options.output}", file=out
        )
    return FOUND if failed else 0


def examine(grounds: Sequence[Ground]) -> Iterator[Check]:
    """Make every check on every ground. The driver is installed and started if necessary, and that is undone."""
    for ground in grounds:
        if isinstance(ground, DriverGround):
            yield from _with_driver(ground)
        else:
            yield from (_made(ground, check) for check in CHECKS)


def _with_driver(ground: "DriverGround") -> Iterator[Check]:
    service, undo = DriverService(), ExitStack()
    before = service.status().state

    def install(_: Ground, folder: Path) -> str:
        """the driver is installed and started"""
        if not ground.is_told:
            raise NotTried("Wine tells no driver of new processes")
        undo.enter_context(service)
        return str(service.status().path)

    def remove(_: Ground, folder: Path) -> str:
        """the driver is left as it was"""
        undo.close()
        after = service.status().state
        expect(after is before, f"it was {before.value}, and is {after.value}")
        return after.value

    first = _made(ground, install)
    yield first
    if first.result == "ok":
        yield from (_made(ground, check) for check in CHECKS)
        yield _made(ground, remove)


def describe_machine() -> dict[str, Any]:
    """The facts of the machine that a bug report needs; no names of users or computers."""
    return {
        "procmon": __version__,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "system": platform.platform() + (" (Wine)" if kernel.is_wine() else ""),
        "architecture": machine.driver_architecture(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "bits": struct.calcsize("P") * 8,
        "elevated": machine.is_elevated(),
    }


def _made(ground: Ground, check: Callable[[Ground, Path], str]) -> Check:
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="procmon-", ignore_cleanup_errors=True) as folder:
            result, detail = "ok", check(ground, Path(folder).resolve())
    except NotTried as error:
        result, detail = "not tried", str(error)
    except Failed as error:
        result, detail = "FAILED", str(error)
    except Exception as error:  # the other checks are still made, and the report has the error
        result, detail = "FAILED", f"{type(error).__name__}: {error}"
    name = {"wow64": "32-bit"}.get(check.__name__, check.__name__)
    seconds = round(time.monotonic() - began, 2)
    return Check(ground.name, name, check.__doc__ or "", result, seconds, _without_names(detail))


def _without_names(text: str) -> str:
    """The text without the names of the user and of the computer, which paths and errors may contain."""
    for variable in ("USERNAME", "COMPUTERNAME"):
        if name := os.environ.get(variable):
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", f"%{variable}%", text, flags=re.IGNORECASE)
    return text


def _row(check: Check) -> str:
    detail = f" ({check.detail})" if check.detail else ""
    return f"{check.result:<9} {check.gate:<10} {check.name:<8} {check.seconds:>5.2f} s  {check.promise}{detail}"
