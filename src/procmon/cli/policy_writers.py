"""``procmon-gate policy`` import, learn and init: they write policies. They need no Windows."""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

from .. import audit
from ..errors import AuditError, PolicyError, ProcmonError
from ..policy import recordings
from ..policy.applocker import read_applocker
from ..policy.learn import Seen, learn
from ..policy.policy import Policy
from ..policy.starter import STARTER
from ..policy.writer import comment
from ..records import Decision, Verdict, VerdictResult
from ..util.line_file import paths_of
from ..util.printable import printable
from ..win32.files import system_folder

__all__ = ["import_applocker", "init", "is_audit_log", "learn_policy", "refuse_to_overwrite"]

FIRST_LINES = 64
"""The lines by which the kind of a log is recognized."""


def import_applocker(options: argparse.Namespace, out: TextIO) -> int:
    """Write a policy from an exported AppLocker policy."""
    file: Path = options.file
    try:
        data = file.read_bytes()
    except OSError as error:
        raise PolicyError(f"{file}: it cannot be read: {error.strerror or error}") from error
    drive = system_folder()[:2].lower() if sys.platform == "win32" else "c:"
    imported = read_applocker(data, str(file), drive=drive)
    counts = {"rules": imported.rules, "left_out": list(imported.left_out)}
    _deliver(options, out, imported.text, counts, [f"{imported.rules:,} rules", *imported.left_out])
    return 0


def learn_policy(options: argparse.Namespace, out: TextIO) -> int:
    """Write a policy that allows the programs that ran, according to audit logs and recordings of other tools."""
    damaged: list[object] = []
    lesson = learn((seen for log in options.log for seen in _seen(log, damaged)), writable=_writable)
    if not lesson.starts:
        raise PolicyError(f"{options.log[0]}: it holds no start of a program that ran, so nothing can be learned")
    counts = {"rules": lesson.rules, "starts": lesson.starts, "not_learned": lesson.not_learned}
    text = lesson.text
    remarks = [f'{lesson.rules:,} rules from {lesson.starts:,} starts; it only logs until you write mode = "enforce"']
    if lesson.not_learned:
        remarks.append(f"no safe rule for {len(lesson.not_learned):,} programs: the end of the policy names them")
    if damaged:
        remarks.append(f"{len(damaged):,} parts of the logs could not be read; the first: {damaged[0]}")
        text += f"\n{comment(f'{len(damaged):,} parts of the logs could not be read; the first: {damaged[0]}')}\n"
    _deliver(options, out, text, {**counts, "damaged": len(damaged)}, remarks)
    return 0


def init(options: argparse.Namespace, out: TextIO) -> int:
    """Write a first policy; an existing file is not changed."""
    file: Path = options.file
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write(STARTER)
    except FileExistsError as error:
        raise PolicyError(f"{file}: there is a file already; give another name") from error
    except OSError as error:
        raise PolicyError(f"{file}: it cannot be written: {error.strerror or error}") from error
    if options.json:
        print(json.dumps({"path": str(file), "rules": len(Policy.parse(STARTER))}), file=out)
    else:
        print(
            printable(f"{file}: {len(Policy.parse(STARTER))} rules; try procmon-gate guard --policy {file} --audit"),
            file=out,
        )
    return 0


def _deliver(
    options: argparse.Namespace, out: TextIO, text: str, counts: Mapping[str, object], remarks: list[str]
) -> None:
    """Print a policy, or write it to ``--output`` and print the remarks about it."""
    if options.output is None:
        print(text, end="", file=out)
        return
    logs = getattr(options, "log", [])
    refuse_to_overwrite(options.output, [] if logs else [options.file], logs)
    try:
        options.output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PolicyError(f"{options.output}: it cannot be written: {error.strerror or error}") from error
    if options.json:
        print(json.dumps({"path": str(options.output), **counts}), file=out)
    else:
        for remark in remarks:
            print(printable(f"{options.output}: {remark}"), file=out)


def refuse_to_overwrite(
    output: Path,
    sources: Iterable[Path],
    logs: Iterable[Path] = (),
    *,
    why: str = "it was read, and would be overwritten; give another --output FILE",
) -> None:
    """Raises: ProcmonError when the output is one of the sources, or a file of one of the logs."""
    for source in [*sources, *(file for log in logs for file in _files_of_log(log))]:
        same = os.path.realpath(output) == os.path.realpath(source)  # also of a file that does not exist yet
        with suppress(OSError):  # one of the two does not exist
            same = same or output.samefile(source)
        if same:
            raise ProcmonError(f"{output}: {why}")


def _files_of_log(log: Path) -> list[Path]:
    """The file, which may be missing, and its older ones."""
    with suppress(AuditError):
        return [log, *paths_of(log)]
    return [log]


# --------------------------------------------------------------------------------------------------------- the logs


def is_audit_log(path: Path) -> bool:
    """Whether the first JSON object on a line is from `audit.AuditLog`; so is a log that is missing or empty.

    Damage can precede it, such as the zeros that a crash of the machine leaves.
    """
    try:
        with path.open("rb") as file:
            lines = [line for line in islice(file, FIRST_LINES) if line.strip()]
    except OSError:
        return True
    for line in lines:
        with suppress(ValueError, RecursionError):  # no JSON, or JSON that is nested too deeply
            document = json.loads(line)
            if isinstance(document, dict):
                process = document.get("process")
                return document.get("event") == "start" or (isinstance(process, dict) and "image_name" in process)
    return not lines


def _seen(log: Path, damaged: list[object]) -> Iterator[Seen]:
    """The programs that ran; what could not be read is appended to the list."""
    if is_audit_log(log):
        decisions = audit.read(log)
        for decision in audit.each_once(decisions):
            allowed = decision.verdict is Verdict.ALLOW or decision.audited
            if allowed and decision.result in (None, VerdictResult.DONE):
                yield _of_decision(decision)
        damaged += decisions.damaged
        return
    recorded = recordings.read(log)
    for recording in recorded:
        process = recording.process
        yield Seen(process.image_name, process.created, sha256=recording.details.sha256)
    damaged += recorded.unread


def _of_decision(decision: Decision) -> Seen:
    """The facts of a file in the log; where the log has no signer, this machine is asked if the file is unchanged."""
    process, facts = decision.process, decision.facts
    at = process.created or decision.at
    signer, product, sha256 = (_text(facts.get(name)) for name in ("signer", "product", "sha256"))
    if signer is None and sys.platform == "win32" and _is_unchanged(process.image_name, at):
        from ..system.details import ProcessDetails

        file = ProcessDetails(process, None)  # without a handle it has the facts of the file
        signer, product, sha256 = file.signer, file.product, sha256 or file.sha256
    return Seen(process.image_name, at, signer, product, sha256)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_unchanged(path: str, since: datetime) -> bool:
    """Whether the file exists, and was last written before it ran."""
    try:
        return os.stat(path).st_mtime <= since.timestamp()
    except OSError:
        return False


def _writable(folder: str) -> bool:
    """Whether users other than administrators can put programs into this folder, as far as this machine knows."""
    if sys.platform != "win32":
        return False
    from ..win32.file_access import writers

    try:
        return bool(writers(folder))
    except (ProcmonError, OSError):
        return False  # it does not exist, or its rights cannot be read: its name decides
