"""Records as JSON for audit logs: the result of `as_dict`, field by field, for any value."""

import json
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmon import DecidedBy, Decision, ProcessFlags, ProcessHelper, Verdict
from procmon.records import RuleNote
from procmon.util.record_json import decision_json, process_json

times = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=2))]))
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def whole(record: type, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Records with a value in every field, also in fields added later."""
    by_type: dict[Any, st.SearchStrategy[Any]] = {datetime: times, datetime | None: st.none() | times}
    types: dict[str, Any] = {field.name: field.type for field in fields(record)}
    values = {name: by_type.get(kind, st.from_type(kind)) for name, kind in types.items()}
    return st.builds(record, **(values | known))


processes = whole(ProcessHelper, flags=st.integers(0, 2**32 - 1).map(ProcessFlags))
notes = st.none() | whole(RuleNote)
decisions = whole(Decision, process=processes, note=notes, facts=st.dictionaries(st.text(), plain | st.lists(plain)))


@given(processes)
def test_a_process_is_written_as_its_dictionary_would_be(process: ProcessHelper) -> None:
    text = process_json(process)
    assert text.isascii() and text.isprintable()
    assert json.loads(text) == process.as_dict()


@given(decisions)
def test_a_decision_is_written_as_its_dictionary_would_be(decision: Decision) -> None:
    text = decision_json(decision)
    assert text.isascii() and text.isprintable()
    assert json.loads(text) == decision.as_dict()


def test_equal_times_of_two_zones_are_each_written_as_they_are() -> None:
    noon = datetime(2026, 1, 31, 12, tzinfo=UTC)
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
    for at in (noon, noon.astimezone(timezone(timedelta(hours=2)))):
        decision = Decision(process=process, verdict=Verdict.ALLOW, by=DecidedBy.USER, at=at)
        assert json.loads(decision_json(decision))["at"] == at.isoformat()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tagged(ProcessHelper):
    """A process with an additional field."""

    tag: str = "night shift"


def test_a_subclass_is_written_with_its_own_fields() -> None:
    assert json.loads(process_json(Tagged(pid=8, parent_pid=4, image_name="a.exe")))["tag"] == "night shift"


@pytest.mark.parametrize("field", ["start_key", "creator_pid", "command_line", "created", "verdict", "hold_left"])
def test_a_field_of_another_type_is_an_error_and_no_broken_line(field: str) -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe", **{field: object()})  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError, AttributeError)):
        process_json(process)
