"""SimulatedGate: the conformance suite, and its own features."""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procmon
from conformance import Adapter, GateConformance
from ctrl_c import assert_heard_soon, seconds_until_heard
from patience import PATIENCE
from procmon.records import STATUS_BLOCKED, DecidedBy, VerdictResult


class SimulatedAdapter(Adapter):
    """A simulated process "runs" once it was released, and lives until it is ended."""

    def __init__(self) -> None:
        self.gate = self.simulated = procmon.SimulatedGate()
        self.exits: dict[int, int] = {}

    def start(self) -> int:
        return self.simulated.start("C:/Tools/A.exe").pid

    def ran(self, pid: int) -> bool:
        return self.simulated.verdict_of(pid, timeout=0) is procmon.ALLOW

    def end(self, pid: int, status: int) -> None:
        self.simulated.exit(pid, status)
        self.exits[pid] = status

    def exit_status(self, pid: int, timeout: float) -> int | None:
        if self.simulated.verdict_of(pid, timeout) is procmon.BLOCK:
            return STATUS_BLOCKED
        return self.exits.get(pid)


class TestSimulatedGate(GateConformance):
    settle = 0.0

    @pytest.fixture
    def adapter(self) -> Iterator[Adapter]:
        with SimulatedAdapter() as adapter:
            yield adapter


@pytest.fixture
def gate() -> Iterator[procmon.SimulatedGate]:
    gate = procmon.SimulatedGate()
    yield gate
    gate.close()


def test_images_become_lowercase_dos_paths_and_pids_ascend_in_steps_of_four(gate: procmon.SimulatedGate) -> None:
    first, second = gate.start("C:/Tools/A.EXE"), gate.start("b.exe")
    assert first.image_name == "c:\\tools\\a.exe"
    assert (first.pid, second.pid) == (1000, 1004)


def test_every_field_of_a_record_can_be_given(gate: procmon.SimulatedGate) -> None:
    given_fields: dict[str, Any] = {
        "parent_pid": 8, "command_line": "a -x", "creator_pid": 12, "creator_tid": 16, "native_name": "\\Device\\a",
        "hold_left": 3.0, "created": datetime(2001, 1, 1, tzinfo=UTC),
    }  # fmt: skip
    process = gate.start("a.exe", **given_fields)
    assert {name: getattr(process, name) for name in given_fields} == given_fields


def test_a_pid_is_used_again_only_after_its_process_has_gone(gate: procmon.SimulatedGate) -> None:
    first = gate.start("a.exe")
    with pytest.raises(ValueError, match="pid 1000 is in use by a.exe"):
        gate.start("b.exe", pid=1000)
    gate.exit(first)
    second = gate.start("b.exe", pid=1000)
    assert second != first
    assert gate.block(first) == [VerdictResult.STALE]
    assert gate.verdict_of(second, timeout=0) is None


def test_an_automatic_pid_passes_over_those_that_were_given(gate: procmon.SimulatedGate) -> None:
    gate.start("a.exe", pid=1000)
    assert gate.start("b.exe").pid == 1004


def test_a_timeout_before_the_fetch_is_given_once_with_its_verdict(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    gate.time_out(process)
    [record] = gate.fetch()
    assert (record.paused, record.verdict, record.decided_by) == (False, procmon.ALLOW, DecidedBy.GATE_TIMEOUT)


def test_a_timeout_after_the_fetch_is_given_once_more(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    gate.fetch()
    gate.time_out(process, procmon.BLOCK)
    record, exited = gate.fetch()
    assert (record.paused, record.verdict, record.decided_by) == (False, procmon.BLOCK, DecidedBy.GATE_TIMEOUT)
    assert exited.exit_status == STATUS_BLOCKED
    assert exited.exited_at is not None and exited.lifetime is not None
    with pytest.raises(procmon.StaleProcess):
        gate.time_out(process)


def test_only_a_held_process_can_time_out(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    gate.allow(process)
    with pytest.raises(ValueError, match="not held"):
        gate.time_out(process)


def test_defer_is_no_verdict_of_a_gate(gate: procmon.SimulatedGate) -> None:
    with pytest.raises(ValueError, match="DEFER"):
        gate.time_out(gate.start("a.exe"), procmon.DEFER)
    with pytest.raises(ValueError, match="on_disconnect"):
        procmon.SimulatedGate(on_disconnect=procmon.DEFER)


@pytest.mark.parametrize("verdict", ["block", True])
def test_what_is_no_verdict_cannot_be_that_of_a_timeout(gate: procmon.SimulatedGate, verdict: Any) -> None:
    with pytest.raises(TypeError, match="verdict is ALLOW or BLOCK"):
        gate.time_out(gate.start("a.exe"), verdict)


@pytest.mark.parametrize(
    "field",
    [
        {"created": datetime(2001, 1, 1)},
        {"command_line": ["a", "b"]},
        {"native_name": 5},
        {"creator_pid": "4"},
        {"creator_tid": 1.5},
        {"flags": 4},
    ],
    ids=str,
)
def test_a_field_that_no_gate_would_give_is_refused(gate: procmon.SimulatedGate, field: Any) -> None:
    with pytest.raises(TypeError, match=next(iter(field))):
        gate.start("a.exe", **field)
    assert gate.fetch() == []


def test_an_exit_status_has_32_bits_as_on_windows(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    with pytest.raises(TypeError, match="status is a whole number"):
        gate.exit(process, "1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="32 bits"):
        gate.exit(process, 2**32)
    gate.exit(process, -1)
    assert gate.fetch()[-1].exit_status == 0xFFFFFFFF


def test_the_time_left_of_a_hold_is_that_at_the_fetch() -> None:
    gate = procmon.SimulatedGate(hold_timeout=60)
    gate.start("a.exe")
    given = gate.start("b.exe", hold_left=5)
    time.sleep(0.02)
    for records in (gate.snapshot(), gate.fetch()):
        left = records[0].hold_left
        assert left is not None and 0 < left <= 60 - 0.02
        assert records[1].hold_left == given.hold_left == 5


def test_an_image_that_is_no_text_is_refused(gate: procmon.SimulatedGate) -> None:
    with pytest.raises(TypeError, match="image is the path of a program, as text; not 3"):
        gate.start(3)  # type: ignore[arg-type]


def test_close_gives_the_disconnect_verdict() -> None:
    with procmon.SimulatedGate(on_disconnect=procmon.BLOCK) as gate:
        process = gate.start("a.exe")
    assert gate.verdict_of(process, timeout=0) is procmon.BLOCK
    with pytest.raises(procmon.GateClosed):
        gate.start("b.exe")


def test_exempt_and_earlier_processes_are_reported_and_never_held(gate: procmon.SimulatedGate) -> None:
    exempt = gate.start("csrss.exe", flags=procmon.ProcessFlags.EXEMPT)
    [earlier] = gate.running_before("explorer.exe")
    assert [record.paused for record in gate.fetch()] == [False, False]
    assert gate.block(exempt, earlier) == [VerdictResult.NOT_HELD, VerdictResult.NOT_HELD]


def test_a_fault_is_raised_once_and_loses_no_record(gate: procmon.SimulatedGate) -> None:
    gate.start("a.exe")
    gate.fail(OSError("gone"))
    with pytest.raises(OSError, match="gone"):
        gate.fetch()
    assert len(gate.fetch()) == 1


def test_an_ended_gate_gives_what_it_has_and_takes_no_more(gate: procmon.SimulatedGate) -> None:
    gate.start("a.exe")
    gate.end()
    assert not gate.ended
    gate.fetch()
    assert gate.ended
    assert [gate.wait(0) for _ in range(2)] == [True, True]  # each wait returns at once
    with pytest.raises(procmon.GateClosed, match="ended"):
        gate.start("b.exe")


def test_verdict_of_waits_for_the_verdict(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    threading.Timer(0.02, gate.allow, [process]).start()
    assert gate.verdict_of(process, timeout=PATIENCE) is procmon.ALLOW


def test_verdict_of_what_was_killed_while_held_is_none_without_waiting(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    gate.exit(process)
    began = time.monotonic()
    assert gate.verdict_of(process, timeout=PATIENCE) is None
    assert time.monotonic() - began < PATIENCE / 2


@pytest.mark.parametrize("stranger", [4, procmon.ProcessHelper(pid=1000, parent_pid=4, image_name="x", start_key=99)])
def test_a_stranger_has_no_verdict_and_cannot_exit(gate: procmon.SimulatedGate, stranger: Any) -> None:
    gate.start("a.exe")
    with pytest.raises(procmon.StaleProcess):
        gate.verdict_of(stranger)
    with pytest.raises(procmon.StaleProcess):
        gate.exit(stranger)


def test_a_process_of_another_gate_was_never_started_in_this_one(gate: procmon.SimulatedGate) -> None:
    gate.start("a.exe")
    with pytest.raises(procmon.StaleProcess, match="never started in this gate"):
        gate.verdict_of(procmon.SimulatedGate().start("b.exe", pid=5000), timeout=0)


def test_a_script_does_what_programs_do_and_those_that_do_not_run_do_nothing(gate: procmon.SimulatedGate) -> None:
    exits = []
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: procmon.BLOCK, match="curl.exe")
        monitor.subscribe(lambda process: procmon.DEFER, match="slow.exe")
        monitor.on_exit(lambda process: exits.append((process.name, process.exit_status)))
        started = gate.play([
            ("start", "make.exe"),
            ("sleep", 0.001),
            ("start", "cc.exe", "make.exe", "cc -c a.c"),
            ("exit", "cc.exe", 1),
            ("exit", "cc.exe", 2),
            ("start", "curl.exe", "make.exe"),
            ("start", "never.exe", "curl.exe"),
            ("exit", "never.exe"),
            ("kill", "never.exe", 1),
            ("start", "slow.exe", "make.exe"),
            ("start", "never.exe", "slow.exe", "never"),
            ("kill", "slow.exe", 9),
            ("exit", "make.exe"),
            ("end",),
        ], patience=0.2)  # fmt: skip
        assert monitor.wait(PATIENCE)
    assert [process.name for process in started] == ["make.exe", "cc.exe", "curl.exe", "slow.exe"]
    make, compiler, *_ = started
    assert (compiler.parent_pid, compiler.command_line) == (make.pid, "cc -c a.c")
    assert exits == [("cc.exe", 1), ("curl.exe", STATUS_BLOCKED), ("slow.exe", 9), ("make.exe", 0)]


def test_a_script_for_a_gate_without_a_monitor_is_played_at_once(gate: procmon.SimulatedGate) -> None:
    make, compiler = gate.play(
        [("start", "make.exe"), ("start", "cc.exe", "make.exe"), ("exit", "cc.exe", 1)], patience=60
    )
    assert [(record.name, record.exit_status) for record in gate.fetch()] == [
        ("make.exe", None),
        ("cc.exe", None),
        ("cc.exe", 1),
    ]
    assert compiler.parent_pid == make.pid


def test_a_hold_may_time_out_in_a_script(gate: procmon.SimulatedGate) -> None:
    [process] = gate.play([("start", "a.exe"), ("time out", "a.exe")])
    assert gate.verdict_of(process) is procmon.ALLOW


def test_in_a_script_a_timeout_is_skipped_for_what_is_not_held_any_more(gate: procmon.SimulatedGate) -> None:
    gate.play(
        [("start", "a.exe"), ("time out", "a.exe"), ("time out", "a.exe"), ("exit", "a.exe"), ("time out", "a.exe")]
    )
    assert [record.decided_by for record in gate.fetch()] == [DecidedBy.GATE_TIMEOUT, DecidedBy.GATE_TIMEOUT]


@pytest.mark.parametrize(
    "step",
    [
        (),
        ("stop",),
        ("exit", "a.exe"),
        ("start",),
        ("start", "b.exe", "a.exe"),
        ("sleep", "1"),
        ("sleep", -1),
        ("kill", "c.exe", 2**32),
    ],
)
def test_a_step_that_is_none_is_named(gate: procmon.SimulatedGate, step: Any) -> None:
    with pytest.raises(ValueError, match="step 2"):
        gate.play([("start", "c.exe"), step])


@given(
    st.lists(st.sampled_from(["start", "allow", "block", "exit", "time out", "fetch", "reuse", "stale"]), max_size=40)
)
def test_whatever_happens_each_start_and_each_exit_is_given_once_and_answered_once(steps: list[str]) -> None:
    gate = procmon.SimulatedGate()
    living: list[procmon.ProcessHelper] = []
    gone: list[procmon.ProcessHelper] = []
    records: list[procmon.ProcessHelper] = []
    done = 0
    for number, step in enumerate(steps):
        target = living[number % len(living)] if living else None
        if step == "start":
            living.append(gate.start(f"{number}.exe"))
        elif step == "reuse" and gone and gone[-1].pid not in [one.pid for one in living]:
            living.append(gate.start("again.exe", pid=gone[-1].pid))
        elif step == "fetch":
            records += gate.fetch()
        elif step == "stale" and target:
            assert gate.block(replace(target, start_key=10_000)) == [VerdictResult.STALE]
        elif step in ("allow", "block") and target:
            [answer] = gate.allow(target) if step == "allow" else gate.block(target)
            done += answer is VerdictResult.DONE
            if step == "block" and answer is VerdictResult.DONE:
                gone.append(target)
                living.remove(target)
        elif step == "time out" and target and target in [one for one in gate.snapshot() if one.paused]:
            gate.time_out(target)
        elif step == "exit" and target:
            gate.exit(target)
            gone.append(target)
            living.remove(target)
    records += gate.fetch()
    starts = [one.identity for one in records if not one.exited and one.decided_by is not DecidedBy.GATE_TIMEOUT]
    assert len(starts) == len(set(starts))
    assert {one.identity for one in records} == {one.identity for one in living + gone}
    assert sorted(one.identity for one in records if one.exited) == sorted(one.identity for one in gone)
    gate.close()
    assert not any(gate.verdict_of(one, timeout=0) is None for one in living)


def test_ctrl_c_ends_a_wait() -> None:
    gate = procmon.SimulatedGate()
    process = gate.start("a.exe")
    gate.fetch()
    assert_heard_soon(lambda: seconds_until_heard(gate.wait, "wait"))
    assert_heard_soon(lambda: seconds_until_heard(lambda: gate.verdict_of(process, timeout=PATIENCE), "verdict_of"))


def test_the_hold_timeout_answers_what_is_held() -> None:
    gate = procmon.SimulatedGate(hold_timeout=0, on_timeout=procmon.BLOCK)
    process = gate.start("a.exe")
    assert gate.verdict_of(process) is procmon.BLOCK
    [record, gone] = gate.fetch()
    assert (record.decided_by, record.verdict) == (procmon.DecidedBy.GATE_TIMEOUT, procmon.BLOCK)
    assert gone.exited
    assert gate.allow(process) == [procmon.VerdictResult.ANSWERED]


def test_before_its_time_has_passed_a_process_stays_held() -> None:
    gate = procmon.SimulatedGate(hold_timeout=1e9)
    process = gate.start("a.exe")
    assert process.hold_left == 1e9
    assert gate.verdict_of(process, 0) is None
    assert gate.allow(process) == [procmon.VerdictResult.DONE]


@pytest.mark.parametrize("fail", [procmon.ALLOW, procmon.BLOCK])
def test_fail_says_what_is_not_given(fail: procmon.Verdict) -> None:
    gate = procmon.SimulatedGate(fail=fail)
    assert gate.failures == {"on_timeout": fail, "on_disconnect": fail, "on_tamper": fail}
    assert ("fail=block" in repr(gate)) == (fail is procmon.BLOCK)
    timed, held = gate.start("a.exe"), gate.start("b.exe")
    gate.time_out(timed)
    gate.close()
    assert gate.verdict_of(timed) is gate.verdict_of(held) is fail
    mixed = procmon.SimulatedGate(fail=fail, on_disconnect=procmon.BLOCK)
    assert mixed.failures == {"on_timeout": fail, "on_disconnect": procmon.BLOCK, "on_tamper": fail}
    assert procmon.SimulatedGate().failures["on_tamper"] is procmon.BLOCK
