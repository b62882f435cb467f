"""The argument checks of public functions."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procmon
from procmon.gates.base import resolve_failures
from procmon.util import arguments

ALLOW, BLOCK, DEFER = procmon.ALLOW, procmon.BLOCK, procmon.DEFER


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, -0.001, 1e306])
def test_a_time_that_no_clock_can_keep_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"^timeout is a number of seconds from 0, or None for no limit; not "):
        arguments.check_seconds("timeout", value)


@pytest.mark.parametrize("value", ["1", True, b"1", [1], 1j])
def test_a_time_that_is_no_number_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match=r"^timeout is a number of seconds from 0; not "):
        arguments.check_seconds("timeout", value, optional=False)  # type: ignore[arg-type]


@given(st.floats(0, arguments.LONGEST_S) | st.integers(0, int(arguments.LONGEST_S)))
def test_any_other_time_is_taken_as_it_is(value: float) -> None:
    assert arguments.check_seconds("timeout", value) is value


def test_no_time_means_no_limit_only_where_that_is_possible() -> None:
    assert arguments.check_seconds("timeout", None) is None
    with pytest.raises(TypeError, match="not None"):
        arguments.check_seconds("timeout", None, optional=False)


@pytest.mark.parametrize("value", [-1, 2**32, 2**32 + 4, 2**64])
def test_a_pid_of_more_than_32_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="from 0 to 4294967295"):
        arguments.check_process_or_pid("process", value)


@pytest.mark.parametrize("value", ["cmd.exe", b"4", 4.0, True, None, [4]])
def test_a_process_is_a_record_or_a_pid(value: object) -> None:
    with pytest.raises(TypeError, match="not .*"):
        arguments.check_process_or_pid("process", value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="process is a ProcessHelper"):
        arguments.check_process("process", value)  # type: ignore[arg-type]


def test_fail_decides_what_is_not_given() -> None:
    assert resolve_failures(BLOCK, on_timeout=None, on_tamper=None) == {"on_timeout": BLOCK, "on_tamper": BLOCK}
    assert resolve_failures(ALLOW, on_timeout=BLOCK, on_tamper=None) == {"on_timeout": BLOCK, "on_tamper": ALLOW}
    assert resolve_failures(None, on_timeout=None, on_tamper=None) == {"on_timeout": ALLOW, "on_tamper": BLOCK}


@pytest.mark.parametrize(("value", "error"), [(DEFER, ValueError), ("block", TypeError), (1, TypeError)])
def test_fail_is_allow_or_block(value: procmon.Verdict, error: type[Exception]) -> None:
    with pytest.raises(error, match="is ALLOW or BLOCK; not "):
        resolve_failures(value, on_timeout=None)
    with pytest.raises(error, match="is ALLOW or BLOCK; not "):
        resolve_failures(None, on_timeout=value)


def test_a_path_is_no_policy_and_a_name_is_no_process(tmp_path: Path) -> None:
    policy = procmon.Policy.parse("")
    for ask in (policy.decide, policy.explain):
        with pytest.raises(TypeError, match="process is a ProcessHelper.*not 'cmd.exe'"):
            ask("cmd.exe")  # type: ignore[arg-type]
    for read in (procmon.Policy.parse, procmon.Policy.check):
        with pytest.raises(TypeError, match="text is the text of a policy; not None; Policy.load"):
            read(None)  # type: ignore[arg-type]
    with pytest.raises(procmon.PolicyError, match="Policy.load\\(path\\) reads a file"):
        procmon.Policy.parse("c:/policies/office.toml")
    with pytest.raises(TypeError, match="policy is a Policy; not 'office.toml'; Policy.load"):
        procmon.audit.replay(tmp_path / "audit.jsonl", "office.toml")  # type: ignore[arg-type]
