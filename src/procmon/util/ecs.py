"""Decisions and exits as documents of the Elastic Common Schema 8.11, which SIEMs of several makers read.

https://www.elastic.co/guide/en/ecs/8.11/ecs-field-reference.html. Values without a field in the schema are below
``procmon``. Fields without a known value are left out.
"""

import ntpath
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache

from ..records import DecidedBy, Decision, ProcessHelper, Verdict, VerdictResult

__all__ = ["decision_document", "exit_document"]

VERSION = "8.11.0"

_FACTS = {
    "current_directory": "process.working_directory",
    "parent": "process.parent.executable",
    "parent_command_line": "process.parent.command_line",
    "md5": "process.hash.md5",
    "sha1": "process.hash.sha1",
    "sha256": "process.hash.sha256",
    "imphash": "process.pe.imphash",
    "original_file_name": "process.pe.original_file_name",
    "product": "process.pe.product",
    "company": "process.pe.company",
    "description": "process.pe.description",
    "file_version": "process.pe.file_version",
    "signer": "process.code_signature.subject_name",
}
"""The fields of the facts that a policy looks up; other facts are below ``procmon.facts``."""

_FAILURES = {DecidedBy.ERROR, DecidedBy.DEADLINE, DecidedBy.GATE_TIMEOUT, DecidedBy.DISCONNECT, DecidedBy.LIMIT}


def decision_document(decision: Decision) -> dict[str, object]:
    """One decision: an event of the category process, type start; an alert where it blocks, or would."""
    document = _document(decision.at)
    blocks = decision.verdict is not Verdict.ALLOW
    failed = decision.by in _FAILURES or decision.result not in (None, VerdictResult.DONE)
    past = {Verdict.ALLOW: "allowed", Verdict.BLOCK: "blocked", Verdict.DEFER: "deferred"}[decision.verdict]
    _put(document, "event.kind", "alert" if blocks else "event")
    _put(document, "event.type", ["start"])
    _put(document, "event.action", f"process-would-be-{past}" if decision.audited else f"process-{past}")
    _put(document, "event.outcome", "failure" if failed else "success")
    _put(document, "event.duration", round(decision.held_for * 1e9))
    _put(document, "event.reason", decision.reason)
    _put_process(document, decision.process)
    if decision.by is DecidedBy.RULE:
        _put(document, "rule.name", decision.who)
        _put(document, "rule.version", decision.policy)
    if decision.note is not None:
        _put(document, "message", decision.note.message)
        _put(document, "rule.reference", decision.note.reference)
        _put(document, "tags", list(decision.note.tags))
    for fact, value in decision.facts.items():
        if fact == "user":  # the name and the SID, or one of them
            for each in map(str, value if isinstance(value, list) else [value]):
                _put(document, "user.id" if each.startswith("S-1-") else "user.name", each)
            continue
        _put(document, _FACTS.get(fact, f"procmon.facts.{fact}"), value)
    _put(document, "procmon.verdict", decision.verdict.value)
    _put(document, "procmon.decided_by", decision.by.value)
    _put(document, "procmon.who", decision.who)
    _put(document, "procmon.audited", decision.audited)
    _put(document, "procmon.result", decision.result.value if decision.result is not None else "")
    return document


def exit_document(process: ProcessHelper, at: datetime) -> dict[str, object]:
    """The exit of a process: an event of the category process, type end."""
    document = _document(at)
    _put(document, "event.kind", "event")
    _put(document, "event.type", ["end"])
    _put(document, "event.action", "process-exited")
    _put_process(document, process)
    _put(document, "process.end", at.isoformat())
    _put(document, "event.duration", None if process.lifetime is None else round(process.lifetime * 1e9))
    _put(document, "process.exit_code", process.exit_status)
    return document


def _document(at: datetime) -> dict[str, object]:
    document: dict[str, object] = {"@timestamp": at.isoformat()}
    for name, value in {
        "ecs.version": VERSION,
        "event.category": ["process"],
        "event.module": "procmon",
        "event.provider": "procmon-gate",
        "agent.type": "procmon-gate",
        "host.hostname": _host(),
        "host.os.type": "windows",
    }.items():
        _put(document, name, value)
    return document


def _put_process(document: dict[str, object], process: ProcessHelper) -> None:
    values = {
        "pid": process.pid,
        "entity_id": f"{process.pid}-{process.start_key}",
        "name": ntpath.basename(process.image_name),
        "executable": process.image_name,
        "command_line": process.command_line,
        "start": process.created.isoformat() if process.created is not None else None,
        "parent.pid": process.parent_pid,
    }
    for name, value in values.items():
        _put(document, f"process.{name}", value)


def _put(document: dict[str, object], name: str, value: object) -> None:
    """Set a field by its dotted name, unless the value is None or empty."""
    if value is None or value == "" or (isinstance(value, list | Mapping) and not value):
        return
    *parents, last = name.split(".")
    for parent in parents:
        below = document.setdefault(parent, {})
        assert isinstance(below, dict), f"{name} is below a field with a value"
        document = below
    document[last] = value


@lru_cache(maxsize=1)
def _host() -> str:
    import socket  # here: `import procmon` must not load it

    return socket.gethostname()
