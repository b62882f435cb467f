"""Monitor: which callbacks it takes, what they are called, how exits reach each of them, and what coroutines return."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import pytest

import procmon
from monitoring import decided, until
from patience import PATIENCE
from procmon import ALLOW, BLOCK
from procmon.records import DecidedBy


@pytest.fixture
def monitor(gate: procmon.SimulatedGate) -> Iterator[procmon.Monitor]:
    monitor = procmon.Monitor(gate)
    yield monitor
    monitor.stop()


async def _fail_later(process: procmon.ProcessHelper) -> None:
    await asyncio.sleep(0)
    raise RuntimeError("oops")


async def _hang_later(process: procmon.ProcessHelper) -> None:
    await asyncio.sleep(3 * PATIENCE)


def _fail(process: procmon.ProcessHelper) -> bool:
    raise RuntimeError("oops")


@pytest.mark.parametrize("match", [None, _fail])
@pytest.mark.parametrize("first", [_fail, _fail_later])
def test_an_exit_reaches_the_other_callbacks_when_one_fails(
    gate: procmon.SimulatedGate, first: Callable[[procmon.ProcessHelper], object], match: Any
) -> None:
    exits: list[str] = []
    with procmon.Monitor(gate) as monitor:
        monitor.on_exit(first, match=match)
        monitor.on_exit(first)
        monitor.on_exit(lambda process: exits.append(process.name))
        gate.exit(gate.start("a.exe"))
        gate.end()
        assert monitor.wait(PATIENCE)
    assert exits == ["a.exe"]
    assert monitor.statistics.callback_errors == 2


@pytest.mark.parametrize("first", [lambda process: time.sleep(0.5), _hang_later], ids=["function", "coroutine"])
def test_an_exit_reaches_the_other_callbacks_when_one_hangs(
    gate: procmon.SimulatedGate, first: Callable[[procmon.ProcessHelper], object]
) -> None:
    exits: list[str] = []
    with procmon.Monitor(gate, deadline=0.1) as monitor:
        monitor.on_exit(first)
        monitor.on_exit(lambda process: exits.append(process.name))
        gate.exit(gate.start("a.exe"))
        gate.end()
        assert monitor.wait(PATIENCE)
    assert exits == ["a.exe"]
    assert monitor.statistics.deadlines == 1


def _yields(process: procmon.ProcessHelper) -> Iterator[procmon.Verdict]:
    yield BLOCK


async def _yields_later(process: procmon.ProcessHelper) -> AsyncIterator[procmon.Verdict]:
    yield BLOCK


class _Yields:
    def __call__(self, process: procmon.ProcessHelper) -> Iterator[procmon.Verdict]:
        yield BLOCK


@pytest.mark.parametrize("yields", [_yields, _yields_later, partial(_yields), _Yields(), _Yields().__call__])
def test_a_generator_function_is_no_callback_because_a_call_runs_none_of_it(
    monitor: procmon.Monitor, yields: Any
) -> None:
    for subscribe in (monitor.subscribe, monitor.on_exit, partial(monitor.subscribe, print, match=yields)):
        with pytest.raises(TypeError, match="has a `yield`"):
            subscribe(*[] if isinstance(subscribe, partial) else [yields])


@pytest.mark.parametrize("match", [lambda: True, lambda process, other: True, lambda *, process: True])
def test_a_match_that_every_call_would_fail_is_refused(monitor: procmon.Monitor, match: Any) -> None:
    with pytest.raises(TypeError, match="match is called with one ProcessHelper"):
        monitor.subscribe(print, match=match)


def test_a_class_is_no_match_because_each_of_its_objects_would_be_one(monitor: procmon.Monitor) -> None:
    with pytest.raises(TypeError, match="match is a glob"):
        monitor.subscribe(print, match=procmon.Policy)  # type: ignore[arg-type]


def test_the_decider_has_the_name_of_the_function_behind_a_partial_and_behind_another_subscription(
    monitor: procmon.Monitor,
) -> None:
    def decide(verdict: procmon.Verdict, process: procmon.ProcessHelper) -> procmon.Verdict:
        return verdict

    subscription = monitor.subscribe(partial(decide, BLOCK))
    again = procmon.Monitor(procmon.SimulatedGate()).subscribe(subscription)
    assert (subscription.name, again.name) == ("decide", "decide")


class _Guard:
    def decide(self, process: procmon.ProcessHelper) -> procmon.Verdict | None:
        return BLOCK if process.name == "a.exe" else None


class _AsyncGuard:
    async def decide(self, process: procmon.ProcessHelper) -> procmon.Verdict | None:
        return BLOCK


def test_type_checkers_accept_every_object_that_decides(gate: procmon.SimulatedGate) -> None:
    """mypy checks these in `dev.py check`; test_run.py does the same for `run` and `guard`."""
    deciders: list[procmon.Decider] = [_Guard(), _AsyncGuard(), procmon.Policy.parse("")]
    gate.running_before("a.exe")
    with procmon.Monitor(gate) as monitor:
        assert [decision.verdict for decision in monitor.sweep(_Guard())] == [BLOCK]
        monitor.subscribe(_Guard())
        monitor.subscribe(_AsyncGuard(), match="b.exe")
        verdicts = [gate.verdict_of(gate.start(name), PATIENCE) for name in ("a.exe", "b.exe", "c.exe")]
    assert verdicts == [BLOCK, BLOCK, ALLOW]
    assert all(isinstance(each, procmon.Decider) for each in deciders)


def test_type_checkers_accept_the_result_of_a_decorated_function(monitor: procmon.Monitor) -> None:
    @monitor.subscribe
    def decide(process: procmon.ProcessHelper) -> procmon.Verdict | None:
        return BLOCK

    verdict: procmon.Verdict | None = decide(procmon.ProcessHelper(pid=8, parent_pid=4, image_name="a.exe"))
    callback: procmon.Callback = decide
    assert (verdict, callback) == (BLOCK, decide)


def test_a_sweep_asks_a_subscription_about_the_processes_of_its_match_alone(
    gate: procmon.SimulatedGate, monitor: procmon.Monitor
) -> None:
    others, _ = gate.running_before("explorer.exe", "evil.exe")
    subscription = monitor.subscribe(lambda process: BLOCK, match="evil.exe")
    assert [one.process.name for one in monitor.sweep(subscription, terminate=True)] == ["evil.exe"]
    assert gate.snapshot() == [others]


def test_a_subscription_of_another_monitor_keeps_its_match_unless_another_is_given(monitor: procmon.Monitor) -> None:
    names = ("a.exe", "b.exe")
    records = [procmon.ProcessHelper(pid=8, parent_pid=4, image_name=name) for name in names]
    first = procmon.Monitor(procmon.SimulatedGate()).subscribe(lambda process: BLOCK, match="a.exe")
    kept, replaced = monitor.subscribe(first), monitor.subscribe(first, match="b.exe")
    assert [kept.ask(record) for record in records] == [BLOCK, None]
    assert [replaced.ask(record) for record in records] == [None, BLOCK]


def test_sys_exit_in_a_coroutine_is_an_error_like_in_a_function_and_does_not_end_the_users_loop(
    gate: procmon.SimulatedGate,
) -> None:
    async def main() -> procmon.Verdict | None:
        async with procmon.Monitor(gate, on_error=BLOCK) as monitor:

            @monitor.subscribe
            async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
                raise SystemExit(3)

            verdict = await asyncio.to_thread(gate.verdict_of, gate.start("a.exe"), PATIENCE)
            assert monitor.history[0].reason == "SystemExit: 3"
            assert verdict is not ALLOW
            return verdict

    assert asyncio.run(main()) is BLOCK


async def _block(process: procmon.ProcessHelper) -> procmon.Verdict:
    return BLOCK


async def _oops(process: procmon.ProcessHelper) -> None:
    raise ValueError("oops")


async def _none(process: procmon.ProcessHelper) -> None: ...


@pytest.mark.parametrize(
    ("callback", "expected"),
    [(_block, (BLOCK, DecidedBy.CALLBACK, "_block")), (_oops, (BLOCK, DecidedBy.ERROR, "_oops")),
     (_none, (ALLOW, DecidedBy.DEADLINE, "_none"))],
)  # fmt: skip
def test_what_a_coroutine_returned_in_time_counts_if_no_worker_is_free_before_the_deadline(
    gate: procmon.SimulatedGate,
    callback: Callable[[procmon.ProcessHelper], Any],
    expected: tuple[procmon.Verdict, DecidedBy, str],
) -> None:
    busy, release = threading.Event(), threading.Event()

    async def ask(process: procmon.ProcessHelper) -> Any:
        await asyncio.to_thread(busy.wait, PATIENCE)
        return await callback(process)

    def keep_busy(process: procmon.ProcessHelper) -> None:
        busy.set()
        release.wait(PATIENCE)

    ask.__name__ = expected[2]
    with procmon.Monitor(gate, deadline=2 * PATIENCE, on_deadline=ALLOW, on_error=BLOCK) as monitor:
        monitor.subscribe(ask, match="evil.exe")
        monitor.subscribe(keep_busy, match="busy.exe")
        evil, _ = gate.start("evil.exe"), gate.start("busy.exe")
        workers = monitor._engine.workers
        until(lambda: [case for case in workers._awaiting if case.awaiting and case.awaiting.done], "its return")
        with workers._lock:
            [case] = workers._awaiting
            case.due = workers._deadlines._next_due = 0.0
        assert gate.verdict_of(evil) is expected[0]
        until(lambda: monitor.history, "the decision")
        assert decided(monitor) == [("evil.exe", *expected)]
        assert monitor.statistics.deadlines == (expected[1] is DecidedBy.DEADLINE)
        release.set()


async def _nonsense(process: procmon.ProcessHelper) -> str:
    return "block"


@pytest.mark.parametrize("callback", [_oops, _nonsense])
@pytest.mark.parametrize("free", [True, False], ids=["a worker is free", "no worker is free"])
def test_a_coroutine_that_fails_while_the_log_hangs_is_decided(
    gate: procmon.SimulatedGate, callback: Callable[[procmon.ProcessHelper], Any], free: bool
) -> None:
    """By the deadline if the thread that was to decide hangs in the log; by on_error if there is no such thread."""
    busy, release = threading.Event(), threading.Event()
    logging_it, logged = threading.Event(), threading.Event()

    class Hanging(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "failed on" in record.getMessage():
                logging_it.set()
                logged.wait(PATIENCE)

    async def ask(process: procmon.ProcessHelper) -> Any:
        if not free:
            await asyncio.to_thread(busy.wait, PATIENCE)
        return await callback(process)

    def keep_busy(process: procmon.ProcessHelper) -> None:
        busy.set()
        release.wait(PATIENCE)

    handler = Hanging()
    logging.getLogger("procmon").addHandler(handler)
    try:
        with procmon.Monitor(gate, deadline=2 * PATIENCE, on_deadline=BLOCK, on_error=BLOCK) as monitor:
            monitor.subscribe(ask, match="evil.exe")
            monitor.subscribe(keep_busy, match="busy.exe")
            evil = gate.start("evil.exe")
            workers = monitor._engine.workers
            if free:
                assert logging_it.wait(PATIENCE)
            else:
                gate.start("busy.exe")
                until(
                    lambda: [case for case in workers._awaiting if case.awaiting and case.awaiting.done], "its return"
                )
            with workers._lock:
                [case] = [case for case in [*workers._awaiting, *(asker.case for asker in workers._askers)]
                          if case is not None and case.process.name == "evil.exe"]  # fmt: skip
                case.due = workers._deadlines._next_due = 0.0
            assert gate.verdict_of(evil, timeout=PATIENCE) is BLOCK
            until(lambda: monitor.history, "the decision")
            assert monitor.history[0].by is (DecidedBy.DEADLINE if free else DecidedBy.ERROR)
            logged.set()
            until(lambda: monitor.statistics.callback_errors, "the end of the log line")
            release.set()
        assert monitor.statistics.callback_errors == 1
    finally:
        logging.getLogger("procmon").removeHandler(handler)
