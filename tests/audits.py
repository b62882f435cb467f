"""Shared by the tests of the audit log."""

from pathlib import Path

import procmon
from procmon import ALLOW, DecidedBy, Decision, ProcessHelper, audit


def decision(
    number: int = 0,
    verdict: procmon.Verdict = ALLOW,
    image: str = "c:\\a.exe",
    held: float = 0.0,
    audited: bool = False,
) -> Decision:
    process = ProcessHelper(pid=1000 + 4 * number, parent_pid=4, image_name=image, start_key=number + 1)
    by = DecidedBy.RULE
    return Decision(process=process, verdict=verdict, by=by, who=str(number), held_for=held, audited=audited)


def numbers(path: Path) -> list[int]:
    return [int(each.who) for each in audit.read(path)]
