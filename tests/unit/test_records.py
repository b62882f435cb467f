"""The records: identity, one-line reprs, JSON and back."""

import json
import pydoc
import re
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procmon
from procmon import Statistics
from procmon.records import DecidedBy, Decision, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from procmon.util.after_verdict import after_verdict

pids = st.integers(0, 2**32 - 1)
times = st.datetimes(timezones=st.just(UTC))
processes = st.builds(
    ProcessHelper,
    pid=pids,
    parent_pid=pids,
    image_name=st.text(),
    paused=st.booleans(),
    seen=st.booleans(),
    start_key=st.integers(0, 2**64 - 1),
    created=st.none() | times,
    creator_pid=st.none() | pids,
    creator_tid=st.none() | pids,
    command_line=st.none() | st.text(),
    native_name=st.none() | st.text(),
    flags=st.integers(0, 2**32 - 1).map(ProcessFlags),
    exited=st.booleans(),
    exit_status=st.none() | pids,
    exited_at=st.none() | times,
    verdict=st.none() | st.sampled_from(Verdict),
    decided_by=st.none() | st.sampled_from(DecidedBy),
    hold_left=st.none() | st.floats(0, 1e6),
)
decisions = st.builds(
    Decision,
    process=processes,
    verdict=st.sampled_from(Verdict),
    by=st.sampled_from(DecidedBy),
    who=st.text(),
    at=times,
    held_for=st.floats(0, 1e6),
    audited=st.booleans(),
    result=st.none() | st.sampled_from(VerdictResult),
    reason=st.text(),
)


def all_fields(record: procmon.ProcessHelper | procmon.Decision) -> dict[str, object]:
    return {field.name: getattr(record, field.name) for field in fields(record)}


@given(processes)
def test_a_process_goes_through_json_and_back_whole(process: procmon.ProcessHelper) -> None:
    assert all_fields(ProcessHelper.from_dict(json.loads(json.dumps(process.as_dict())))) == all_fields(process)


@given(decisions)
def test_a_decision_goes_through_json_and_back_whole(decision: procmon.Decision) -> None:
    again = Decision.from_dict(json.loads(json.dumps(decision.as_dict())))
    assert all_fields(again) == all_fields(decision)
    assert all_fields(again.process) == all_fields(decision.process)


@given(processes, decisions)
def test_each_prints_on_one_line(process: procmon.ProcessHelper, decision: procmon.Decision) -> None:
    assert len(repr(process).splitlines()) == len(repr(decision).splitlines()) == 1


def test_statistics_are_json_and_their_times_seconds() -> None:
    statistics = Statistics(allowed=2, longest_hold=timedelta(milliseconds=1500))
    assert json.loads(json.dumps(statistics.as_dict()))["longest_hold"] == 1.5
    assert statistics.as_dict().keys() == {field.name for field in fields(Statistics)}


def test_identity_is_the_pid_with_its_start_key_and_nothing_else() -> None:
    one = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe", start_key=1, paused=True)
    same = ProcessHelper(pid=8, parent_pid=0, image_name="b.exe", start_key=1, exited=True)
    other = replace(one, start_key=2)
    assert one == same and hash(one) == hash(same)
    assert one != other
    assert one != (8, 1)
    assert {one: "first", other: "second"}[same] == "first"


def test_records_do_not_change() -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
    with pytest.raises(FrozenInstanceError):
        process.pid = 9  # type: ignore[misc]
    with pytest.raises((AttributeError, TypeError)):
        process.colour = "red"  # type: ignore[attr-defined]


@pytest.mark.parametrize("given, text", [
    ({}, "<ProcessHelper 8 'a.exe' parent 4>"),
    ({"paused": True, "seen": True}, "<ProcessHelper 8 'a.exe' parent 4, paused, seen>"),
    ({"exited": True, "exit_status": 0}, "<ProcessHelper 8 'a.exe' parent 4, exited with 0>"),
    ({"exited": True, "exit_status": 0xC0000364}, "<ProcessHelper 8 'a.exe' parent 4, exited with 0xC0000364>"),
    ({"exited": True}, "<ProcessHelper 8 'a.exe' parent 4, exited>"),
    ({"flags": ProcessFlags.RUNNING_BEFORE}, "<ProcessHelper 8 'a.exe' parent 4, running before>"),
    ({"verdict": Verdict.BLOCK}, "<ProcessHelper 8 'a.exe' parent 4, block>"),
    ({"verdict": Verdict.ALLOW, "decided_by": DecidedBy.NO_CONTROLLER},
     "<ProcessHelper 8 'a.exe' parent 4, allow by no controller>"),
    ({"image_name": ""}, "<ProcessHelper 8 '' parent 4>"),
])  # fmt: skip
def test_the_repr_of_a_process_shows_its_state(given: dict[str, Any], text: str) -> None:
    values: dict[str, Any] = {"pid": 8, "parent_pid": 4, "image_name": "a.exe", **given}
    assert repr(ProcessHelper(**values)) == text


def test_the_name_is_the_last_part() -> None:
    assert ProcessHelper(pid=8, parent_pid=4, image_name="c:\\tools\\a.exe").name == "a.exe"
    assert ProcessHelper(pid=8, parent_pid=4, image_name="\\device\\mup\\a.exe").name == "a.exe"
    assert ProcessHelper(pid=8, parent_pid=4, image_name="").name == ""


@pytest.mark.parametrize("change, error", [
    ({"pid": None}, "pid"), ({"image_name": None}, "image_name"), ({"pid": "1"}, "pid"), ({"pid": True}, "pid"),
    ({"paused": "no"}, "paused"), ({"image_name": 5}, "image_name"),
    ({"verdict": "maybe"}, "verdict is 'maybe'; it can be 'allow'"),
    ({"flags": "x"}, "flags"), ({"created": "soon"}, "created is 'soon'"), ({"created": "2024-01-01"}, "created"),
    ({"hold_left": "x"}, "hold_left"),
])  # fmt: skip
def test_a_process_that_is_none_is_refused_by_the_field(change: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        ProcessHelper.from_dict({"pid": 1, "parent_pid": 2, "image_name": ""} | change)


@pytest.mark.parametrize("change, error", [
    ({"process": None}, "process"), ({"process": {}}, "pid"), ({"verdict": "maybe"}, "maybe"), ({"by": 3}, "3"),
    ({"at": "yesterday"}, "yesterday"), ({"held_for": "long"}, "long"), ({"result": "what"}, "what"),
    ({"audited": "no"}, "audited"), ({"at": "2024-01-01T00:00:00"}, "at"), ({"who": 3}, "who"),
])  # fmt: skip
def test_a_decision_that_is_none_is_refused_by_the_field(change: dict[str, object], error: str) -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
    good = Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.DEFAULT).as_dict()
    with pytest.raises(ValueError, match=error):
        Decision.from_dict(good | change)


def test_a_decision_whose_other_parts_are_missing_has_their_defaults() -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
    decision = Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.DEFAULT)
    kept = {key: value for key, value in decision.as_dict().items() if key in ("process", "verdict", "by", "at")}
    assert all_fields(Decision.from_dict(kept)) == all_fields(decision)


@pytest.mark.parametrize("missing", ["process", "verdict", "by", "at"])
def test_a_decision_without_a_part_says_which(missing: str) -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
    good = Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.DEFAULT).as_dict()
    del good[missing]
    with pytest.raises(ValueError, match=missing):
        Decision.from_dict(good)


def test_unknown_keys_are_ignored_and_unknown_flags_kept() -> None:
    data = {"pid": 1, "parent_pid": 2, "image_name": "a", "colour": "red", "flags": 0x80000001}
    assert ProcessHelper.from_dict(data).flags == 0x80000001


def test_times_of_other_zones_stay_the_same_moment() -> None:
    at = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    process = ProcessHelper(pid=1, parent_pid=2, image_name="a", created=at)
    assert ProcessHelper.from_dict(process.as_dict()).created == at


@pytest.mark.parametrize("given, text", [
    ({}, "<Decision block 8 'a.exe' by default>"),
    ({"by": DecidedBy.RULE, "who": "no shells"}, "<Decision block 8 'a.exe' by rule no shells>"),
    ({"by": DecidedBy.RULE, "audited": True}, "<Decision block 8 'a.exe' by rule (audit: let pass)>"),
    ({"result": VerdictResult.STALE}, "<Decision block 8 'a.exe' by default (came too late: stale)>"),
    ({"result": VerdictResult.DONE}, "<Decision block 8 'a.exe' by default>"),
])  # fmt: skip
def test_the_repr_of_a_decision_says_who_decided_what(given: dict[str, Any], text: str) -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
    values: dict[str, Any] = {"process": process, "verdict": Verdict.BLOCK, "by": DecidedBy.DEFAULT, **given}
    assert repr(Decision(**values)) == text


def test_verdicts_name_themselves() -> None:
    assert [repr(verdict) for verdict in (procmon.ALLOW, procmon.BLOCK, procmon.DEFER)] == [
        "<Verdict.ALLOW>", "<Verdict.BLOCK>", "<Verdict.DEFER>",
    ]  # fmt: skip


@pytest.mark.parametrize("record", [ProcessHelper, Decision, Statistics])
def test_help_shows_what_each_field_is(record: Any) -> None:
    text = pydoc.render_doc(record, renderer=pydoc.plaintext)  # type: ignore[attr-defined]
    for field in fields(record):
        shown = re.search(rf"^ \|  {field.name}\n \|      (\S.*)", text, re.MULTILINE)
        assert shown, f"help({record.__name__}) does not say what {field.name} is"
    assert record.__slots__["no such field"] == ""


def test_the_lifetime_is_the_time_from_creation_to_exit() -> None:
    born = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe", created=born)
    assert process.lifetime is None
    assert replace(process, exited_at=born + timedelta(seconds=2.5)).lifetime == 2.5
    assert replace(process, created=None, exited_at=born).lifetime is None
    assert replace(process, exited_at=born - timedelta(seconds=1)).lifetime == 0.0  # the clock was set back


def test_flags_are_written_by_their_names_and_read_by_names_or_number() -> None:
    flags = ProcessFlags.RUNNING_BEFORE | ProcessFlags.NAME_NATIVE | 0x80000000
    record = ProcessHelper(pid=1, parent_pid=2, image_name="a", flags=ProcessFlags(flags))
    data = record.as_dict()
    assert data["flags"] == ["running_before", "name_native", "0x80000000"]
    assert ProcessHelper.from_dict(data).flags == flags
    assert ProcessHelper.from_dict(data | {"flags": int(flags)}).flags == flags
    with pytest.raises(ValueError, match="flags has 'quick'; it can have running_before"):
        ProcessHelper.from_dict(data | {"flags": ["quick"]})


@given(processes, st.sampled_from([Verdict.ALLOW, Verdict.BLOCK]), st.sampled_from(DecidedBy))
def test_a_record_after_its_verdict_differs_in_four_fields_alone(
    process: ProcessHelper, verdict: Verdict, by: DecidedBy
) -> None:
    after = after_verdict(process, verdict, by)
    expected = replace(process, paused=False, verdict=verdict, decided_by=by, hold_left=None)
    assert after.as_dict() == expected.as_dict()
    assert after == process and type(after) is ProcessHelper
