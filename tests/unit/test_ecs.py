"""Decisions and exits in the Elastic Common Schema: every field is in the schema, with its type and allowed values."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

import procmon
from procmon import ALLOW, BLOCK, DEFER, AuditLog, DecidedBy, Decision, ProcessHelper, VerdictResult, audit
from procmon.policy.facts import FACTS
from procmon.records import RuleNote
from procmon.util.ecs import decision_document, exit_document

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SCHEMA = {
    name: (kind, {value[1:] for value in values})
    for line in (Path(__file__).parents[1] / "ecs_fields.txt").read_text().splitlines()
    if not line.startswith("#")
    for name, kind, *values in [line.split()]
}
PROCESS = ProcessHelper(
    pid=8, parent_pid=4, image_name="c:\\tools\\a.exe", start_key=3, command_line="a -x", created=NOON
)
FULL = Decision(
    process=PROCESS,
    verdict=BLOCK,
    by=DecidedBy.RULE,
    who="no tools",
    at=NOON,
    held_for=0.25,
    result=VerdictResult.DONE,
    reason="ValueError: x",
    note=RuleNote(message="Use b instead.", reference="https://example.com/rule", tags=("attack.t1059",)),
    policy="0123456789ab",
    facts={
        "user": "PC\\ada",
        "sha256": "00" * 32,
        "original_file_name": "A.EXE",
        "signer": "Example Ltd",
        "size": 4096,
        "group": ["S-1-5-32-545"],
    },
)


def leaves(document: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def check(document: dict[str, object]) -> dict[str, object]:
    """Check a document against the schema; procmon's own fields are below ``procmon``."""
    found = dict(leaves(json.loads(json.dumps(document))))
    for name, value in found.items():
        if name.startswith("procmon."):
            continue
        kind, allowed = SCHEMA[name]
        values = value if kind.endswith("[]") else [value]
        assert isinstance(values, list), f"{name} is an array in the schema"
        for each in values:
            assert type(each) is (int if kind == "long" else str), name
            assert not allowed or each in allowed, name
            if kind == "date":
                assert datetime.fromisoformat(str(each)).tzinfo is not None
    assert {"@timestamp", "ecs.version", "event.kind", "event.category", "event.type"} <= found.keys()
    return found


def test_a_full_decision_keeps_to_the_schema_and_loses_nothing() -> None:
    found = check(decision_document(FULL))
    expected = {
        "event.kind": "alert",
        "event.action": "process-blocked",
        "event.outcome": "success",
        "event.duration": 250_000_000,
        "process.entity_id": "8-3",
        "process.name": "a.exe",
        "process.pe.original_file_name": "A.EXE",
        "process.code_signature.subject_name": "Example Ltd",
        "user.name": "PC\\ada",
        "rule.name": "no tools",
        "rule.version": "0123456789ab",
        "message": "Use b instead.",
        "procmon.facts.size": 4096,
        "procmon.facts.group": ["S-1-5-32-545"],
        "procmon.decided_by": "rule",
    }
    assert {name: found.get(name) for name in expected} == expected


def test_every_fact_that_a_policy_looks_up_keeps_to_the_schema() -> None:
    known: dict[str, object] = {name: "S-1-5-18" if name == "user_sid" else "x" for name in (*FACTS, "user_sid")}
    known |= {"user": "PC\\ada", "groups": ["S-1-1-0", "S-1-5-11"], "session": 1, "size": 2, "logon_id": 999}
    known |= {"command_line": "a -x", "parent": "c:\\b.exe"}
    conditions = "".join(f"{fact} = {{known = true}}\n" for fact in FACTS if fact != "creator")
    policy = procmon.Policy.parse(
        f"[[rule]]\nverdict = 'block'\n{conditions}",
        details=lambda _: SimpleNamespace(**known),
        lookup=lambda pid: ProcessHelper(pid=pid, parent_pid=0, image_name="c:\\b.exe"),
    )
    decision = policy.decide(PROCESS)
    assert decision.by is DecidedBy.RULE
    found = check(decision_document(decision))
    assert (found["user.name"], found["user.id"]) == ("PC\\ada", "S-1-5-18")
    assert found["process.parent.executable"] == "c:\\b.exe"


@pytest.mark.parametrize(
    ("changes", "action", "kind", "outcome"),
    [
        ({"verdict": ALLOW}, "process-allowed", "event", "success"),
        ({"verdict": DEFER}, "process-deferred", "alert", "success"),
        ({"audited": True}, "process-would-be-blocked", "alert", "success"),
        ({"by": DecidedBy.ERROR}, "process-blocked", "alert", "failure"),
        ({"by": DecidedBy.GATE_TIMEOUT, "verdict": ALLOW}, "process-allowed", "event", "failure"),
        ({"result": VerdictResult.STALE}, "process-blocked", "alert", "failure"),
        ({"result": None}, "process-blocked", "alert", "success"),
    ],
)
def test_each_kind_of_decision_has_its_action(changes: dict[str, object], action: str, kind: str, outcome: str) -> None:
    found = check(decision_document(replace(FULL, **changes)))  # type: ignore[arg-type]
    assert (found["event.action"], found["event.kind"], found["event.outcome"]) == (action, kind, outcome)


def test_what_is_not_known_is_left_out() -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="")
    found = check(decision_document(Decision(process=process, verdict=ALLOW, by=DecidedBy.DEFAULT, at=NOON)))
    assert not {"process.command_line", "process.start", "process.executable", "rule.name", "message"} & found.keys()


def test_an_exit_is_an_event_of_the_type_end() -> None:
    gone = replace(PROCESS, exited=True, exit_status=3, created=NOON - timedelta(seconds=2.5), exited_at=NOON)
    found = check(exit_document(gone, NOON))
    assert found["event.duration"] == 2_500_000_000
    assert (found["event.type"], found["process.exit_code"], found["process.end"]) == (["end"], 3, NOON.isoformat())


def test_a_log_in_this_format_has_decisions_and_exits(tmp_path: Path) -> None:
    path = tmp_path / "ecs.jsonl"
    with AuditLog(path, format="ecs") as log:
        log.write(FULL)
        log.write_exit(replace(PROCESS, exited=True, exit_status=0, exited_at=NOON))
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    assert [check(document)["event.type"] for document in documents] == [["start"], ["end"]]


def test_read_says_what_such_a_log_is(tmp_path: Path) -> None:
    path = tmp_path / "ecs.jsonl"
    with AuditLog(path, format="ecs") as log:
        log.write(FULL)
    reader = audit.read(path)
    assert list(reader) == []
    assert "Elastic Common Schema" in str(reader.damaged[0])


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='"json" or "ecs"'):
        AuditLog(tmp_path / "x", format="xml")  # type: ignore[arg-type]
