"""procmon.run and procmon.guard over invented processes. tests/windows/test_run.py has real ones."""

import asyncio
import subprocess
import sys
import threading
from typing import Any, ClassVar, assert_type, get_type_hints

import pytest

import procmon
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, SimulatedGate, UnsupportedPlatform
from procmon.monitor import run as one_liners


def test_off_windows_it_says_what_works_there() -> None:
    if sys.platform != "win32":
        with pytest.raises(UnsupportedPlatform, match="SimulatedGate works everywhere"):
            procmon.run(["cmd"])


class Command(SimulatedGate):
    """A gate over a command that has ended; the processes are invented."""

    def __init__(self, fail: procmon.Verdict | None = None) -> None:
        super().__init__("command", fail=fail)
        self.popen = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
        self.first = self.start("c:/tools/make.exe")
        self.terminated: list[procmon.ProcessHelper] = []

    def communicate(self, timeout: float | None = None) -> tuple[None, None]:
        self.verdict_of(self.first, 5.0)
        self.popen.wait()
        for process in self.snapshot():
            self.exit(process, 3)
        self.end()
        return None, None

    def terminate(self, process: procmon.ProcessHelper) -> None:
        self.terminated.append(process)
        self.exit(process, 1)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    command = Command()
    monkeypatch.setattr(procmon.DebugGate, "run", lambda argv, **options: command)
    return command


def test_type_checkers_know_what_was_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    """mypy checks these in `dev.py check`; at run time they do nothing."""
    monkeypatch.setattr(procmon.DebugGate, "run", lambda argv, **options: Command())
    assert_type(procmon.run(["make"]), procmon.RunResult[None])
    assert_type(procmon.run(["make"], text=True).stdout, None)
    assert_type(procmon.run("make", capture_output=True).stderr, bytes)
    assert_type(procmon.run("make", capture_output=True, text=True, default=BLOCK).stdout, str)
    captured, text = bool(sys.argv), bool(sys.platform)
    assert_type(procmon.run("make", capture_output=captured).stdout, str | bytes | None)
    anything: procmon.RunResult[str | bytes | None] = procmon.run("make", capture_output=captured, text=text)
    anything = procmon.run("make", capture_output=True, text=True)
    assert anything.returncode == 3


def test_type_checkers_accept_every_callback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(procmon.DebugGate, "run", lambda argv, **options: Command())

    class Guard:
        def decide(self, process: procmon.ProcessHelper) -> procmon.Verdict | None:
            return BLOCK

    @procmon.Monitor(SimulatedGate()).subscribe
    def decide(process: procmon.ProcessHelper) -> procmon.Verdict | None:
        return BLOCK

    assert [len(procmon.run(["make"], each).blocked) for each in (decide, Guard())] == [1, 1]
    assert len(procmon.run(["make"], decide).blocked) == 1


def test_type_checkers_know_the_options_of_a_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = get_type_hints(procmon.Monitor.__init__)
    del expected["gate"], expected["return"]
    assert get_type_hints(one_liners.MonitorOptions) == expected
    assert one_liners.MonitorOptions.__required_keys__ == frozenset()
    assert all(f"`{option}`" in (procmon.run.__doc__ or "") for option in expected)
    monkeypatch.setattr(procmon.DebugGate, "run", lambda argv, **options: Command())
    for wrong in (
        lambda: procmon.run(["make"], defualt=BLOCK),  # type: ignore[call-overload]
        lambda: procmon.run(["make"], workers="3"),  # type: ignore[call-overload]
        lambda: procmon.guard(fail="block"),  # type: ignore[arg-type]
        lambda: procmon.guard(worker=3),  # type: ignore[call-arg]
    ):
        with pytest.raises((TypeError, ValueError)):
            wrong()


@pytest.mark.usefixtures("command")
def test_the_result_says_who_ran_and_how_it_ended() -> None:
    result = procmon.run(["make"])
    assert (result.returncode, result.stdout, result.blocked) == (3, None, [])
    assert [(each.process.name, each.by.value) for each in result.decisions] == [("make.exe", "default")]
    [make] = result.tree
    assert (make.exit_status, make.lifetime is not None) == (3, True)
    with pytest.raises(subprocess.CalledProcessError):
        result.check_returncode()
    assert result._repr_html_().startswith("<p>&lt;RunResult status 3: 1 allowed, 0 blocked&gt;</p><table>")


@pytest.mark.usefixtures("command")
def test_every_decision_is_kept_but_with_history_the_latest_ones() -> None:
    assert procmon.run(["make"], history=0).decisions == ()


@pytest.mark.usefixtures("command")
def test_what_was_only_audited_was_not_blocked() -> None:
    result = procmon.run(["make"], procmon.Policy.parse('mode = "audit"\ndefault = "block"'))
    assert [each.verdict for each in result.decisions] == [BLOCK]
    assert result.blocked == []


def test_whatever_goes_wrong_nothing_is_left_of_the_tree(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(timeout: float | None = None) -> tuple[None, None]:
        raise OSError(1, "the pipe is broken")

    monkeypatch.setattr(command, "communicate", fail)
    with pytest.raises(OSError, match="the pipe is broken"):
        procmon.run(["make"])
    assert command.terminated == [command.first]
    assert command.closed


class Service:
    """The driver's service, and the calls made to it."""

    steps: ClassVar[list[str]] = []

    def __enter__(self) -> None:
        self.steps.append("started")

    def __exit__(self, *_: object) -> None:
        self.steps.append("undone")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimulatedGate:
    """The gate of `guard`, over the service above."""
    gate = SimulatedGate()
    monkeypatch.setattr(Service, "steps", [])
    monkeypatch.setattr(one_liners, "DriverService", Service)
    monkeypatch.setattr(one_liners, "DriverGate", lambda **options: gate)
    return gate


def test_guard_undoes_what_it_did_however_it_ends(driver: SimulatedGate) -> None:
    with pytest.raises(ValueError, match="of the user"), procmon.guard(lambda process: BLOCK) as monitor:
        assert driver.verdict_of(driver.start("a.exe")) is BLOCK
        assert monitor.running
        raise ValueError("of the user")
    assert Service.steps == ["started", "undone"]
    assert driver.closed


def test_guard_in_a_coroutine_undoes_what_it_did_and_decides_on_the_loop(driver: SimulatedGate) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            return BLOCK if asyncio.get_running_loop() is loop else ALLOW

        async with procmon.guard(decide) as monitor:
            assert monitor.running
            assert await asyncio.to_thread(driver.verdict_of, driver.start("a.exe"), PATIENCE) is BLOCK
            raise ValueError("of the user")

    with pytest.raises(ValueError, match="of the user"):
        asyncio.run(main())
    assert Service.steps == ["started", "undone"]
    assert driver.closed


def test_guard_that_cannot_open_its_gate_in_a_coroutine_undoes_the_service(
    driver: SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(**options: object) -> SimulatedGate:
        raise procmon.ControllerBusy("another program has the driver")

    async def main() -> None:
        async with procmon.guard():
            pass

    monkeypatch.setattr(one_liners, "DriverGate", busy)
    with pytest.raises(procmon.ControllerBusy):
        asyncio.run(main())
    assert Service.steps == ["started", "undone"]


def test_guard_that_is_cancelled_while_the_driver_starts_undoes_that_before_it_ends(
    driver: SimulatedGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    starting, goes_on = threading.Event(), threading.Event()

    class SlowService(Service):
        def __enter__(self) -> None:
            starting.set()
            assert goes_on.wait(PATIENCE)
            super().__enter__()

    async def enter() -> None:
        async with procmon.guard():
            raise AssertionError("it was cancelled before")

    async def main() -> None:
        task = asyncio.create_task(enter())
        assert await asyncio.to_thread(starting.wait, PATIENCE), "the event loop is not blocked"
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
        assert not task.done()
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert Service.steps == ["started", "undone"]

    monkeypatch.setattr(one_liners, "DriverService", SlowService)
    asyncio.run(main())
    assert driver.closed


def test_a_guard_without_a_with_says_what_to_do(driver: SimulatedGate) -> None:
    guard = procmon.guard()
    with pytest.raises(AttributeError, match=r"no attribute 'wait'; .*`with procmon\.guard\(\.\.\.\) as monitor:`"):
        guard.wait()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="no attribute 'wiat'$"):
        guard.wiat()  # type: ignore[attr-defined]
    assert repr(guard) == "<guard, not entered: use it in a `with`>"
    with guard:
        assert repr(guard) == "<guard, entered>"
    assert Service.steps == ["started", "undone"]


def test_fail_is_what_the_gate_says_as_well(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []

    def make(*_: object, **options: object) -> Command:
        asked.append(options)
        return command

    monkeypatch.setattr(procmon.DebugGate, "run", make)
    procmon.run(["make"], fail=BLOCK)
    assert asked[0]["fail"] is BLOCK


@pytest.mark.parametrize("fail", [ALLOW, BLOCK])
def test_fail_is_no_reason_for_a_warning(
    fail: procmon.Verdict, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(procmon.DebugGate, "run", lambda argv, **options: Command(options["fail"]))
    monkeypatch.setattr(one_liners, "DriverService", Service)
    monkeypatch.setattr(one_liners, "DriverGate", lambda **options: SimulatedGate(**options))
    procmon.run(["make"], fail=fail)
    with procmon.guard(fail=fail):
        pass
    assert caplog.text == ""


@pytest.mark.parametrize("fail", [DEFER, 1, None])
def test_a_fail_that_is_neither_allow_nor_block_is_named(fail: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="fail is ALLOW or BLOCK"):
        procmon.run(["make"], fail=fail)


class Sink:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.written: list[procmon.Decision] = []

    def write(self, decision: procmon.Decision) -> None:
        self.written.append(decision)


@pytest.mark.usefixtures("command")
def test_the_sinks_may_come_from_an_iterator() -> None:
    sink = Sink()
    result = procmon.run(["make"], audit=iter([sink]))
    assert sink.written == list(result.decisions) != []


def test_the_sinks_of_guard_may_come_from_an_iterator(driver: SimulatedGate) -> None:
    sink = Sink()
    with procmon.guard(audit=(each for each in [sink])):
        driver.verdict_of(driver.start("a.exe"))
    assert [decision.process.name for decision in sink.written] == ["a.exe"]


@pytest.mark.parametrize("options", [{"deadline": -1}, {"nonsense": 1}, {"decide": 3}, {"audit": [1]}])
def test_with_an_invalid_option_nothing_is_started(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DriverService", "DriverGate"):
        monkeypatch.delattr(one_liners, name)
    monkeypatch.delattr(procmon.DebugGate, "run")
    with pytest.raises((TypeError, ValueError)):
        procmon.guard(**options)
    with pytest.raises((TypeError, ValueError)):
        procmon.run("cmd", **options)
