"""Monitor: iterators, coroutines, many threads, many processes."""

import asyncio
import gc
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import procmon
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


async def until_async(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {patience} s"
        await asyncio.sleep(0.001)


# ---------------------------------------------------------------------------------------------------- for ... in starts


def test_the_iterator_gives_held_processes_and_ends_with_its_timeout(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        starts = monitor.starts(timeout=0.1)
        processes = [gate.start(f"{number}.exe") for number in range(3)]
        seen = []
        for process in starts:
            assert gate.verdict_of(process, timeout=0) is None
            seen.append(process)
            (monitor.block if process.pid % 8 else monitor.allow)(process)
        assert seen == processes
        assert gate.verdict_of(gate.start("after.exe")) is ALLOW, "the iteration has ended"


def test_several_may_be_taken_before_the_first_is_answered(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        starts = monitor.starts(timeout=PATIENCE)
        gate.start("a.exe"), gate.start("b.exe")
        first, second = next(starts), next(starts)
        monitor.block(second)
        monitor.block(first)
        starts.close()
    assert (monitor.statistics.blocked, monitor.statistics.allowed) == (2, 0)


@pytest.mark.parametrize("leave", ["break", "error", "close", "timeout", "stop", "drop"])
def test_however_it_is_left_nothing_stays_held(gate: procmon.SimulatedGate, leave: str) -> None:
    with procmon.Monitor(gate, default=BLOCK) as monitor:

        def iterate() -> tuple[procmon.ProcessHelper, procmon.ProcessHelper]:
            starts = monitor.starts(timeout=0.05 if leave == "timeout" else PATIENCE)
            one, two = gate.start("a.exe"), gate.start("b.exe")
            for _ in starts:
                if leave == "break":
                    break
                if leave == "error":
                    raise ZeroDivisionError
                if leave == "close":
                    starts.close()
                    starts.close()
                if leave == "stop":
                    monitor.stop()
                if leave == "drop":
                    return one, two
            return one, two

        if leave == "error":
            with pytest.raises(ZeroDivisionError):
                iterate()
            gc.collect()
            until(lambda: monitor.statistics.blocked == 2, "both, answered")
        else:
            one, two = iterate()
            assert [gate.verdict_of(process) for process in (one, two)] == [BLOCK, BLOCK]
        if leave != "stop":
            assert gate.verdict_of(gate.start("after.exe")) is BLOCK
    by = DecidedBy.DEFAULT if leave in ("close", "timeout") else DecidedBy.STOP  # without a `with` a break drops it
    assert {one.by for one in monitor.history if one.process.name != "after.exe"} == {by}


def test_the_iterator_passes_over_what_was_answered_meanwhile(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor, monitor.starts(timeout=PATIENCE) as starts:
        one, two = gate.start("a.exe"), gate.start("b.exe")
        until(lambda: monitor.statistics.deferred == 2, "both, deferred")
        monitor.allow(one)
        assert next(starts) == two
        monitor.allow(two)


def test_the_iterator_matches(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor, monitor.starts(timeout=PATIENCE, match="b.exe") as starts:
        gate.start("a.exe")
        wanted = gate.start("b.exe")
        assert next(starts) == wanted
        assert repr(starts) == "<Starts of simulated: 0 waiting>"
        monitor.allow(wanted)


def test_an_iterator_of_a_monitor_that_was_never_started_says_so(gate: procmon.SimulatedGate) -> None:
    monitor = procmon.Monitor(gate)
    with pytest.raises(procmon.ProcmonError, match="does not run"):
        next(monitor.starts())
    monitor.stop()
    assert list(monitor.starts()) == []


def test_what_the_loop_starts_and_waits_for_does_not_wait_for_the_loop(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        starts = monitor.starts(timeout=PATIENCE)
        gate.start("a.exe")
        for process in starts:
            own = gate.start("tool.exe", creator_pid=os.getpid(), creator_tid=threading.get_native_id())
            assert gate.verdict_of(own, timeout=PATIENCE) is ALLOW
            monitor.block(process)
            break
        del starts
        until(lambda: not monitor._engine.callback_threads, "the thread, no longer busy")
    assert [one.by for one in monitor.history] == [DecidedBy.EXEMPT, DecidedBy.USER]


# ----------------------------------------------------------------------------------------------------------- coroutines


def test_a_coroutine_decides_without_occupying_the_only_worker(gate: procmon.SimulatedGate) -> None:
    waiting, all_wait = 0, asyncio.Event()

    async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        nonlocal waiting
        waiting += 1
        if waiting == 20:
            all_wait.set()
        await all_wait.wait()
        return BLOCK

    with procmon.Monitor(gate, workers=1) as monitor:
        monitor.subscribe(decide)
        processes = [gate.start(f"{number}.exe") for number in range(20)]
        assert {gate.verdict_of(process, timeout=PATIENCE) for process in processes} == {BLOCK}
    assert {(one.by, one.who) for one in monitor.history} == {(DecidedBy.CALLBACK, "decide")}


def test_after_a_coroutine_without_opinion_the_next_callback_is_asked(gate: procmon.SimulatedGate) -> None:
    async def none(process: procmon.ProcessHelper) -> None:
        await asyncio.sleep(0)

    async def wrong(process: procmon.ProcessHelper) -> None:
        raise ValueError("oops")

    with procmon.Monitor(gate, on_error=ALLOW) as monitor:
        monitor.subscribe(none)
        monitor.subscribe(lambda process: BLOCK, match="a.exe")
        monitor.subscribe(wrong)
        assert gate.verdict_of(gate.start("a.exe")) is BLOCK
        assert gate.verdict_of(gate.start("b.exe")) is ALLOW
    assert [(one.by, one.who) for one in monitor.history] == [
        (DecidedBy.CALLBACK, "<lambda>"),
        (DecidedBy.ERROR, "wrong"),
    ]


def test_a_coroutine_that_hangs_is_cancelled_at_the_deadline(gate: procmon.SimulatedGate) -> None:
    cancelled = threading.Event()

    async def decide(process: procmon.ProcessHelper) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with procmon.Monitor(gate, deadline=0.03, on_deadline=BLOCK) as monitor:
        monitor.subscribe(decide)
        assert gate.verdict_of(gate.start("a.exe"), timeout=PATIENCE) is BLOCK
        assert cancelled.wait(PATIENCE)
    assert monitor.statistics.deadlines == 1
    assert monitor.statistics.callback_errors == 0


def test_stop_cancels_coroutines_and_answers_for_them(gate: procmon.SimulatedGate) -> None:
    async def decide(process: procmon.ProcessHelper) -> None:
        await asyncio.sleep(60)

    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(decide)
        process = gate.start("a.exe")
        until(lambda: monitor._engine.callback_threads, "it, asked")
    assert gate.verdict_of(process) is ALLOW
    until(lambda: "procmon loop" not in [thread.name for thread in threading.enumerate()], "the loop, ended")


def test_async_with_runs_coroutines_on_the_users_loop(gate: procmon.SimulatedGate) -> None:
    async def main() -> None:
        loops = []

        async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            loops.append(asyncio.get_running_loop())
            return BLOCK

        async with procmon.Monitor(gate) as monitor:
            monitor.subscribe(decide)
            process = gate.start("a.exe")
            await until_async(lambda: monitor.history, "the decision")
            await until_async(
                lambda: not monitor._engine.callback_threads, "the loop's thread, no longer inside a callback"
            )
        assert loops == [asyncio.get_running_loop()]
        assert gate.verdict_of(process) is BLOCK

    asyncio.run(main())


def test_async_with_a_monitor_that_runs_leaves_it_its_loop_and_the_users_loop_running(
    gate: procmon.SimulatedGate,
) -> None:
    async def main() -> None:
        loops = []

        async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            loops.append(asyncio.get_running_loop())
            return BLOCK

        monitor = procmon.Monitor(gate)
        monitor.subscribe(decide)
        monitor.start()
        assert gate.verdict_of(gate.start("a.exe"), timeout=PATIENCE) is BLOCK
        with pytest.raises(procmon.ProcmonError, match="runs already"):
            await monitor.__aenter__()
        assert gate.verdict_of(gate.start("b.exe"), timeout=PATIENCE) is BLOCK
        await monitor._engine.stop_async()
        await asyncio.sleep(0)  # the loop would have been stopped by now
        assert loops[0] is loops[1] is not asyncio.get_running_loop()

    asyncio.run(main())
    until(lambda: "procmon loop" not in [thread.name for thread in threading.enumerate()], "the loop, ended")


def test_the_end_of_async_with_cancels_callbacks_on_the_users_loop(gate: procmon.SimulatedGate) -> None:
    async def main() -> None:
        began, cancelled = asyncio.Event(), asyncio.Event()

        async def decide(process: procmon.ProcessHelper) -> None:
            began.set()
            try:
                await asyncio.sleep(60)
            finally:
                cancelled.set()

        async with procmon.Monitor(gate) as monitor:
            monitor.subscribe(decide)
            process = gate.start("a.exe")
            await asyncio.wait_for(began.wait(), 5)
        await asyncio.wait_for(cancelled.wait(), 5)
        assert gate.verdict_of(process) is ALLOW

    asyncio.run(main())


def test_async_for_gives_held_processes(gate: procmon.SimulatedGate) -> None:
    async def main() -> None:
        async with procmon.Monitor(gate) as monitor:
            starts = monitor.starts(timeout=0.1)
            processes = [gate.start("a.exe"), gate.start("b.exe")]
            asyncio.get_running_loop().call_later(0.03, lambda: processes.append(gate.start("c.exe")))
            seen = []
            async for process in starts:
                assert gate.verdict_of(process, timeout=0) is None
                monitor.block(process)
                seen.append(process)
            assert seen == processes

    asyncio.run(main())


def test_async_for_that_is_cancelled_or_whose_monitor_stops_leaves_nothing_held(gate: procmon.SimulatedGate) -> None:
    async def main() -> None:
        async with procmon.Monitor(gate) as monitor:

            async def consume() -> None:
                async for _ in monitor.starts():
                    pass

            task = asyncio.create_task(consume())
            await until_async(lambda: monitor._engine.subscriptions, "the iteration")
            process = gate.start("a.exe")
            await until_async(lambda: monitor.pending, "it, held")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until_async(lambda: not monitor.pending, "it, answered")
            again = asyncio.create_task(consume())
            await asyncio.sleep(0.01)
            await asyncio.to_thread(monitor.stop)
            await asyncio.wait_for(again, 5)
            assert gate.verdict_of(process) is ALLOW

    asyncio.run(main())


# -------------------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("workers", [1, 4])
def test_ten_thousand_starts_are_each_answered_once_and_none_is_left(gate: procmon.SimulatedGate, workers: int) -> None:
    total, feeders = 10_000, 4
    asked: Counter[tuple[int, int]] = Counter()
    lock = threading.Lock()

    def decide(process: procmon.ProcessHelper) -> procmon.Verdict | None:
        with lock:
            asked[process.identity] += 1
        return (ALLOW, BLOCK, None, DEFER)[process.start_key % 4]

    def feed(share: list[int]) -> None:
        for number in range(total // feeders):
            gate.start(f"{share}-{number}.exe")

    with procmon.Monitor(gate, workers=workers, history=total) as monitor:
        monitor.subscribe(decide)
        threads = [threading.Thread(target=feed, args=(share,)) for share in range(feeders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: len(monitor.pending) == total // 4 == monitor.statistics.deferred, "all but the deferred")
        deferred = monitor.pending
        by_hand = [
            threading.Thread(target=lambda part=deferred[at::2]: [monitor.allow(one) for one in part]) for at in (0, 1)
        ]
        for thread in by_hand:
            thread.start()
        for thread in by_hand:
            thread.join()
    statistics = monitor.statistics
    assert set(asked.values()) == {1}
    assert len(asked) == total == statistics.held == len({one.process for one in monitor.history})
    assert (statistics.blocked, statistics.allowed, statistics.stale) == (total // 4, total - total // 4, 0)
    assert statistics.pending == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_callbacks_run_at_once_than_there_are_workers(gate: procmon.SimulatedGate, workers: int) -> None:
    inside, most, lock, full = 0, 0, threading.Lock(), threading.Barrier(workers)

    def decide(process: procmon.ProcessHelper) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        full.wait(PATIENCE)  # until as many are inside as there are workers
        with lock:
            inside -= 1

    with procmon.Monitor(gate, workers=workers) as monitor:
        monitor.subscribe(decide)
        processes = [gate.start("a.exe") for _ in range(30)]
        until(lambda: len(monitor.history) == len(processes), "all decisions")
    assert most == workers


def test_stop_amid_starts_verdicts_timeouts_and_exits_leaves_nothing_held() -> None:
    for seed in range(15):
        chance = random.Random(seed)
        gate = procmon.SimulatedGate()
        monitor = procmon.Monitor(gate, workers=2, deadline=0.02)
        choices = [ALLOW, BLOCK, DEFER, None]
        monitor.subscribe(lambda process, chance=chance, choices=choices: chance.choice(choices))  # type: ignore[misc]
        monitor.start()
        processes: list[procmon.ProcessHelper] = []

        def disturb(
            chance: random.Random = chance,
            gate: procmon.SimulatedGate = gate,
            monitor: procmon.Monitor = monitor,
            processes: list[procmon.ProcessHelper] = processes,
        ) -> None:
            calls: list[Callable[[procmon.ProcessHelper], object]]
            calls = [monitor.allow, monitor.block, gate.exit, gate.time_out]
            try:
                while True:
                    processes.append(gate.start("a.exe"))
                    other = chance.choice(processes)
                    try:
                        chance.choice(calls)(other)
                    except (procmon.StaleProcess, procmon.AlreadyAnswered, procmon.NotHeld, ValueError):
                        pass
            except procmon.GateClosed:
                pass

        threads = [threading.Thread(target=disturb) for _ in range(2)]
        for thread in threads:
            thread.start()
        time.sleep(0.02)
        stoppers = [threading.Thread(target=monitor.stop) for _ in range(3)]
        for thread in stoppers:
            thread.start()
        for thread in [*threads, *stoppers]:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert monitor.pending == []
        assert monitor.error is None
        assert [one for one in gate._processes.values() if one.paused] == []
        statistics = monitor.statistics
        assert statistics.held == statistics.allowed + statistics.blocked + statistics.stale


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.sampled_from([ALLOW, BLOCK, DEFER, None, "nonsense", ValueError]), st.booleans()), max_size=12
    ),
    st.sampled_from([ALLOW, BLOCK, DEFER]),
    st.sampled_from([ALLOW, BLOCK]),
)
def test_whatever_callbacks_do_every_process_has_one_decision_in_the_end(
    script: list[tuple[Any, bool]], default: procmon.Verdict, on_error: procmon.Verdict
) -> None:
    gate = procmon.SimulatedGate()

    def decide(process: procmon.ProcessHelper) -> Any:
        does = script[int(process.name)][0]
        if does is ValueError:
            raise ValueError
        return does

    async def decide_later(process: procmon.ProcessHelper) -> Any:
        await asyncio.sleep(0)
        return decide(process)

    with procmon.Monitor(gate, default=default, on_error=on_error) as monitor:
        monitor.subscribe(decide, match=lambda process: not script[int(process.name)][1])
        monitor.subscribe(decide_later, match=lambda process: script[int(process.name)][1])
        processes = [gate.start(str(number)) for number in range(len(script))]
        deferred = sum(does is DEFER or (does is None and default is DEFER) for does, _ in script)
        until(lambda: len(monitor.history) == len(script) - deferred and monitor.statistics.deferred == deferred, "all")
    assert sorted(one.process.pid for one in monitor.history) == [one.pid for one in processes]
    for process, (does, _) in zip(processes, script, strict=True):
        expected = {ALLOW: ALLOW, BLOCK: BLOCK, DEFER: ALLOW if default is DEFER else default}.get(does)
        if does is None:
            expected = ALLOW if default is DEFER else default
        assert gate.verdict_of(process, timeout=0) is (expected or on_error)


def test_a_dropped_monitor_with_a_callback_that_knows_it_goes_on(gate: procmon.SimulatedGate) -> None:
    def arrange() -> Callable[[], None]:
        monitor = procmon.Monitor(gate)
        monitor.subscribe(lambda process: BLOCK if monitor.running else None)
        monitor.start()
        return monitor.stop

    stop = arrange()
    gc.collect()
    assert gate.verdict_of(gate.start("a.exe")) is BLOCK
    stop()


def test_a_start_that_comes_while_the_iterator_is_closed_is_not_held_for_ever(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:

        def matches(process: procmon.ProcessHelper) -> bool:
            starts.close()
            return True

        starts = monitor.starts(match=matches)
        assert gate.verdict_of(gate.start("a.exe")) is ALLOW
        assert monitor.pending == []


def test_iterators_that_are_dropped_leave_nothing_behind(gate: procmon.SimulatedGate) -> None:
    with procmon.Monitor(gate) as monitor:
        for _ in range(3):
            starts = monitor.starts(timeout=PATIENCE)
            process = gate.start("a.exe")
            assert next(starts) == process, "the iterator before, dropped and not yet closed, does not take it"
            monitor.allow(process)
            del starts
            gc.collect()
        until(lambda: not monitor._engine.at_stop and not monitor._engine.subscriptions, "all of them, forgotten")
