"""``procmon-gate policy``: check, explain, replay. They need no Windows."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TextIO

from .. import audit
from ..errors import PolicyError, Problem
from ..policy import recordings
from ..policy.facts import FACTS
from ..policy.policy import Policy
from ..policy.rehearsal import Rehearsal, rehearse
from ..records import ProcessHelper
from ..util.paths import lowercase
from ..util.printable import printable
from .policy_writers import is_audit_log

__all__ = ["check", "explain", "replay"]


def check(options: argparse.Namespace, out: TextIO) -> int:
    """Print every problem as ``file:line:column: what; what instead``, which editors read; 1 for mistakes."""
    file: Path = options.file
    try:
        problems = Policy.check_file(file)
    except PolicyError as error:
        if not error.problems:
            raise
        problems = list(error.problems)
    for problem in problems:
        print(json.dumps(asdict(problem)) if options.json else _located(file, problem), file=out)
    mistakes = any(problem.fatal for problem in problems)
    if not mistakes and not options.json:
        also = f", {len(problems):,} warning{'s' * (len(problems) > 1)}" if problems else f" in {Policy.load(file)!r}"
        print(f"{file}: no mistakes{also}", file=out)
    return 1 if mistakes else 0


def _located(file: Path, problem: Problem) -> str:
    kind = "" if problem.fatal else "warning: "
    return printable(
        f"{problem.source or file}:{problem.line}:{problem.column}: {kind}{problem.message}; {problem.advice}"
    )


OPTIONS = ("command_line", "user", "session", "sha256", "signer")
"""Facts that have an option of their own; --fact gives the others."""


def _given_details(options: argparse.Namespace) -> SimpleNamespace:
    """Details from the command line, in place of a look-up; each missing detail has the option to add as its reason.

    Raises: ValueError for a --fact that is invalid.
    """
    facts: dict[str, object] = {name: value for name in OPTIONS if (value := getattr(options, name)) is not None}
    possible = sorted(set(FACTS) - {"image", "parent", "ancestor", "flags"})
    for text in options.fact:
        name, equals, value = text.partition("=")
        if not equals or name not in possible:
            raise ValueError(f"--fact {text}: write NAME=VALUE; the names are {', '.join(possible)}")
        if name == "group":
            facts[name] = [*_list(facts.get(name)), value]
        elif name in ("session", "size"):
            if not value.isdecimal():
                raise ValueError(f"--fact {text}: {name} is a number")
            facts[name] = int(value)
        else:
            facts[name] = value
    missing = (name for name in possible if name not in facts)
    reasons = {
        name: f"add --{name.replace('_', '-')}" if name in OPTIONS else f"add --fact {name}=" for name in missing
    }
    return SimpleNamespace(**facts, reasons=reasons)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def explain(options: argparse.Namespace, out: TextIO) -> int:
    """Print why the described process would be allowed or blocked."""
    given = _given_details(options)
    line = [options.image, *options.parent]
    records = {
        1000 + 4 * i: ProcessHelper(
            pid=1000 + 4 * i,
            parent_pid=1004 + 4 * i if i + 1 < len(line) else 0,
            image_name=lowercase(image),
            command_line=options.command_line if i == 0 else None,
        )
        for i, image in enumerate(line)
    }
    policy = Policy.load(options.file, lookup=records.get, details=lambda _: given)
    explanation = policy.explain(records[1000])
    if options.json:
        steps = [asdict(step) for step in explanation.steps]
        print(json.dumps({"decision": explanation.decision.as_dict(), "steps": steps}), file=out)
    else:
        print(explanation, file=out)
    return 0


def replay(options: argparse.Namespace, out: TextIO) -> int:
    """Print what the policy would have decided about each log: audit logs, and recordings of other tools."""
    for log in options.log:
        if len(options.log) > 1 and not options.json:
            print(printable(f"{log}:"), file=out)
        policy = Policy.load(options.file)
        result = audit.replay(log, policy) if is_audit_log(log) else _rehearsed(log, policy)
        if options.json:
            for event in _events(result) if isinstance(result, audit.Replay) else _rehearsal_events(result):
                print(json.dumps(event), file=out)
        else:
            print(result, file=out)
    return 0


def _rehearsed(log: Path, policy: Policy) -> Rehearsal:
    reader = recordings.read(log)
    result = rehearse(reader, policy)
    result.unread = tuple(reader.unread)
    if not result.processes:
        raise PolicyError(
            f"{log}: it holds no process creation that procmon can read; give an audit log, or event 1 of Sysmon or"
            " event 4688 of the Security log, as JSON, JSON lines or event XML"
        )
    return result


def _rehearsal_events(result: Rehearsal) -> Iterator[dict[str, object]]:
    """The output of `Rehearsal` as objects; docs/cli.md lists them."""
    for decision in result.decisions:
        yield {"event": "match", "decision": decision.as_dict()}
    for fact, count in sorted(result.missing.items()):
        yield {"event": "missing", "fact": fact, "processes": count}
    if result.backwards:
        yield {"event": "backwards", "processes": result.backwards}
    for each in result.unread:
        yield {"event": "damaged", "path": str(each.path), "line": each.line, "reason": each.reason}
    counts = {"blocked": result.blocked, "asked": result.asked, "audited": result.audited, "allowed": result.allowed}
    yield {"event": "summary", "processes": result.processes, **counts}


def _events(result: audit.Replay) -> Iterator[dict[str, object]]:
    """The output of `Replay` as objects; docs/cli.md lists them."""
    for change in result.changes:
        yield {"event": "change", "then": change.then.as_dict(), "now": change.now.as_dict()}
    for fact, count in sorted(result.missing.items()):
        yield {"event": "missing", "fact": fact, "processes": count}
    for damage in result.damaged:
        yield {"event": "damaged", "path": str(damage.path), "line": damage.line, "reason": damage.reason}
    yield {"event": "summary", "decisions": result.decisions, "changed": len(result.changes), "same": result.same}
