"""Monitor: one argument chooses whether it fails open or closed."""

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest

import procmon
from monitoring import decided, until
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy, Verdict


def raises(process: procmon.ProcessHelper) -> None:
    raise ValueError("oops")


@pytest.mark.parametrize("fail", [ALLOW, BLOCK])
def test_fail_decides_what_errors_leave_open(gate: procmon.SimulatedGate, fail: Verdict) -> None:
    with procmon.Monitor(gate, fail=fail) as monitor:
        monitor.subscribe(raises)
        assert monitor.fail is fail
        assert gate.verdict_of(gate.start("error.exe")) is fail
    assert [(one.verdict, one.by) for one in monitor.history] == [(fail, DecidedBy.ERROR)]


@pytest.mark.parametrize("fail", [ALLOW, BLOCK])
def test_fail_decides_what_deadlines_leave_open(gate: procmon.SimulatedGate, fail: Verdict) -> None:
    release = threading.Event()
    with procmon.Monitor(gate, fail=fail, deadline=0.05) as monitor:

        @monitor.subscribe
        def hang(process: procmon.ProcessHelper) -> None:
            release.wait()

        assert gate.verdict_of(gate.start("hang.exe")) is fail
        release.set()
    assert [(one.verdict, one.by) for one in monitor.history] == [(fail, DecidedBy.DEADLINE)]


def test_the_default_is_no_part_of_fail(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate, fail=BLOCK) as monitor:
        assert gate.verdict_of(gate.start("a.exe")) is ALLOW
    assert decided(monitor) == [("a.exe", ALLOW, DecidedBy.DEFAULT, "")]


@pytest.mark.parametrize("default, fail", [(ALLOW, BLOCK), (DEFER, BLOCK), (DEFER, ALLOW), (BLOCK, ALLOW)])
@pytest.mark.parametrize("end", ["stop", "the gate fails", "dropped"])
def test_what_a_stop_finds_undecided_is_blocked_where_default_or_fail_blocks(
    gate: procmon.SimulatedGate, default: Verdict, fail: Verdict, end: str
) -> None:
    monitor: procmon.Monitor | None = procmon.Monitor(gate, default=default, fail=fail)
    assert monitor is not None
    monitor.subscribe(lambda process: DEFER)
    monitor.start()
    process = gate.start("a.exe")
    until(lambda: gate.snapshot()[0].seen, "it, held")
    if end == "stop":
        monitor.stop()
    elif end == "the gate fails":
        gate.fail(OSError(6, "the handle is invalid"))
    else:
        monitor = None
    assert gate.verdict_of(process) is (BLOCK if BLOCK in (default, fail) else ALLOW)
    until(lambda: gate.closed, "the end")


def test_a_start_that_fails_blocks_what_is_held_where_fail_blocks(gate: procmon.SimulatedGate) -> None:
    process = gate.start("a.exe")
    gate.fail(OSError(6, "the handle is invalid"))
    with pytest.raises(OSError, match="invalid"):
        procmon.Monitor(gate, fail=BLOCK).start()
    assert gate.verdict_of(process) is BLOCK


@pytest.mark.parametrize("default", [ALLOW, DEFER])
def test_an_iteration_that_ends_gives_fail_only_where_the_default_is_no_verdict(
    gate: procmon.SimulatedGate, default: Verdict
) -> None:
    with procmon.Monitor(gate, default=default, fail=BLOCK) as monitor:
        with monitor.starts() as starts:
            process = gate.start("a.exe")
            assert next(starts) == process
        assert gate.verdict_of(process) is (BLOCK if default is DEFER else ALLOW)


def leave_by_an_exception(monitor: procmon.Monitor, gate: procmon.SimulatedGate) -> None:
    with pytest.raises(ValueError, match="oops"), monitor.starts() as starts:
        start_two(monitor, gate)
        for process in starts:
            raises(process)


def leave_by_a_cancellation(monitor: procmon.Monitor, gate: procmon.SimulatedGate) -> None:
    async def consume() -> None:
        async with monitor.starts() as starts:
            start_two(monitor, gate)
            async for _ in starts:
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(consume())


def drop(monitor: procmon.Monitor, gate: procmon.SimulatedGate) -> None:
    starts = monitor.starts()
    start_two(monitor, gate)
    next(starts)


def press_ctrl_c(monitor: procmon.Monitor, gate: procmon.SimulatedGate) -> None:
    """While `next` waits, and while another name keeps the iterator alive."""
    starts = monitor.starts()
    start_two(monitor, gate)
    next(starts)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(starts._queue, "take", interrupted)
        next(starts)
    until(lambda: starts._queue.closed, "the end of the iteration")


def interrupted(ticket: object) -> None:
    raise KeyboardInterrupt


def start_two(monitor: procmon.Monitor, gate: procmon.SimulatedGate) -> None:
    gate.start("taken.exe"), gate.start("waiting.exe")
    until(lambda: monitor.statistics.deferred == 2, "both, deferred")


@pytest.mark.parametrize("default, fail", [(ALLOW, BLOCK), (DEFER, BLOCK), (BLOCK, ALLOW), (ALLOW, ALLOW)])
@pytest.mark.parametrize("how", [leave_by_an_exception, leave_by_a_cancellation, drop, press_ctrl_c])
def test_an_iteration_that_is_cut_off_gives_what_a_stop_gives(
    gate: procmon.SimulatedGate,
    default: Verdict,
    fail: Verdict,
    how: Callable[[procmon.Monitor, procmon.SimulatedGate], None],
) -> None:
    with procmon.Monitor(gate, default=default, fail=fail) as monitor:
        how(monitor, gate)
        gc.collect()
        until(lambda: len(monitor.history) == 2, "both, decided")
    verdict = BLOCK if BLOCK in (default, fail) else ALLOW
    assert decided(monitor) == [(name, verdict, DecidedBy.STOP, "starts") for name in ("taken.exe", "waiting.exe")]


@pytest.mark.parametrize("on_error", [ALLOW, BLOCK, DEFER])
def test_what_is_given_counts_more_than_fail(gate: procmon.SimulatedGate, on_error: Verdict) -> None:
    fail = ALLOW if on_error is BLOCK else BLOCK
    with procmon.Monitor(gate, fail=fail, on_error=on_error) as monitor:
        monitor.subscribe(raises)
        process = gate.start("a.exe")
        until(lambda: monitor.history or monitor.statistics.deferred, "the decision")
        assert gate.verdict_of(process, timeout=0) is (None if on_error is DEFER else on_error)


def test_the_repr_shows_a_monitor_that_fails_closed() -> None:
    assert repr(procmon.Monitor(procmon.SimulatedGate(), fail=BLOCK)).startswith(
        "<Monitor ready on simulated, fail=BLOCK: 0 allowed"
    )
    assert "fail" not in repr(procmon.Monitor(procmon.SimulatedGate()))


@pytest.mark.parametrize(
    "fail, failures, said",
    [
        (ALLOW, {"on_timeout": ALLOW, "on_disconnect": ALLOW, "on_tamper": BLOCK}, ""),
        (BLOCK, {"on_timeout": BLOCK, "on_disconnect": BLOCK, "on_tamper": BLOCK}, ""),
        (
            ALLOW,
            {"on_timeout": ALLOW, "on_disconnect": BLOCK},
            "but its gate simulated has on_disconnect=BLOCK",
        ),
        (BLOCK, {"on_timeout": ALLOW, "on_disconnect": ALLOW}, "has on_timeout=ALLOW, on_disconnect=ALLOW: give both"),
    ],
)
def test_a_monitor_that_fails_otherwise_than_its_gate_is_warned_about(
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    fail: Verdict,
    failures: dict[str, Verdict],
    said: str,
) -> None:
    monkeypatch.setattr(procmon.SimulatedGate, "failures", failures)
    procmon.Monitor(procmon.SimulatedGate(), fail=fail)
    assert said in caplog.text
    assert bool(said) == bool(caplog.text)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"deadline": float("nan")}, ValueError),
        ({"deadline": 1e306}, ValueError),
        ({"deadline": 0}, ValueError),
        ({"deadline": "1"}, TypeError),
        ({"workers": True}, TypeError),
        ({"workers": 0}, ValueError),
        ({"history": "10"}, TypeError),
        ({"history": -1}, ValueError),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_starts(options: dict[str, Any], error: type) -> None:
    with pytest.raises(error, match=next(iter(options))):
        procmon.Monitor(procmon.SimulatedGate(), **options)


@pytest.mark.parametrize("fields", [{"pid": "x"}, {"parent_pid": None}, {"image_name": b"a.exe"}, {"pid": True}])
def test_a_record_with_a_field_of_another_type_is_refused(fields: dict[str, Any]) -> None:
    values: dict[str, Any] = {"pid": 8, "parent_pid": 4, "image_name": "a.exe"}
    with pytest.raises(TypeError, match=next(iter(fields))):
        procmon.ProcessHelper(**(values | fields))
