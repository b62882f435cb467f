"""The ends of run, guard and watch: Ctrl+C is heard at once, whatever hangs, and held processes get their verdict."""

import io
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import procmon
from commandline import ASKING, CommandGate, Scene
from ctrl_c import Keyboard
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, Verdict
from procmon.cli import hold_commands, main, statuses
from procmon.cli.session import Session
from procmon.monitor import engine

SOON = 10.0
"""Seconds that Ctrl+C may take on a busy machine. A stop that waits for a hanging call takes twice as long."""


class Interrupts:
    """A script that starts two processes, waits for all events of `first`, and presses Ctrl+C `times` times."""

    def __init__(self, *first: threading.Event) -> None:
        self.first = list(first)
        self.started: list[procmon.ProcessHelper] = []
        self.times = 1
        self.heard = 0
        """Of the presses: the next one waits for that, or Python may make one interrupt of both."""
        self.keyboard = Keyboard()

    def __call__(self, gate: CommandGate) -> None:
        self.started += [gate.start(f"c:/tools/{name}.exe", hold_left=60.0) for name in "ab"]
        for event in self.first:
            assert event.wait(PATIENCE)
        for press in range(self.times):
            until(lambda press=press: self.heard == press, "the press before")  # type: ignore[misc]
            time.sleep(0.2)
            self.keyboard.press()
        until(lambda: gate.closed, "the end of the gate")


def ends(scene: Scene, arguments: list[str], interrupts: Interrupts, keys: str | None = None) -> float:
    """Seconds from the last Ctrl+C to the end of the command."""
    interrupts.first += [scene.waits] if keys is None else [scene.waits, scene.questions]
    if arguments[0] == "run":  # whose first one is the command's
        interrupts.times, arguments = 2, [*arguments, "make"]
    over = Session._over

    def count_heard(session: Session, *arguments: Any) -> bool:
        is_over = over(session, *arguments)
        interrupts.heard += not is_over
        return is_over

    with interrupts.keyboard as keyboard, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Session, "_over", count_heard)
        assert main.main(arguments, scene.gates(interrupts, keys=keys)) == statuses.INTERRUPTED
    return time.monotonic() - keyboard.pressed[-1]


class Hang:
    """A call that hangs until the end of the test; `began` is set when it is entered."""

    def __init__(self) -> None:
        self.began, self._over = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.began.set()
        self._over.wait()

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def hang() -> Iterator[Hang]:
    hang = Hang()
    yield hang
    hang.end()


@pytest.fixture
def log(hang: Hang, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A log that hangs, as on a file server that is gone."""
    monkeypatch.setattr(procmon.AuditLog, "_append", lambda log, line: hang())
    return tmp_path / "audit.jsonl"


class TestControlC:
    @pytest.fixture(autouse=True)
    def long_stops(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(engine, "STOP_TIMEOUT_S", 2 * SOON)

    @pytest.mark.parametrize("command", ["run", "guard", "watch"])
    def test_with_nothing_happening(self, command: str, scene: Scene, policy: Path) -> None:
        arguments = ["guard", "--policy", str(policy)] if command == "guard" else [command]
        assert ends(scene, arguments, Interrupts()) < SOON

    @pytest.mark.parametrize("command", ["run", "guard"])
    def test_with_a_question_open(
        self, command: str, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        assert ends(scene, [command, "--policy", str(policy)], Interrupts(), keys="") < SOON
        shown = "".join(capsys.readouterr())
        assert "let a.exe (1000) run?" in shown
        assert re.match("[^\n]*\r +\r", shown[shown.rindex("[y/n/i/?]") :])  # the question is erased

    @pytest.mark.parametrize(
        "command, fail, does",
        [
            ("run", [], "releases"),
            ("run", ["--fail", "block"], "blocks"),
            ("guard", [], "releases"),
            ("guard", ["--fail", "block"], "blocks"),
            ("watch", [], "releases"),
        ],
    )
    def test_with_a_log_that_hangs(
        self,
        command: str,
        fail: list[str],
        does: str,
        scene: Scene,
        policy: Path,
        hang: Hang,
        log: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        arguments = ["guard", "--policy", str(policy)] if command == "guard" else [command]
        arguments += ["--log", str(log), *fail]
        assert ends(scene, arguments, Interrupts(hang.began)) < SOON
        assert scene.left == [statuses.INTERRUPTED]
        assert f"; 2 without a verdict, which the gate {does}\n" in "".join(capsys.readouterr())

    @pytest.mark.parametrize("command", ["run", "guard", "watch"])
    def test_with_a_reader_that_hangs(
        self, command: str, scene: Scene, policy: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Full(io.StringIO):
            def write(self, text: str) -> int:
                if "a.exe" in text:
                    hang()
                return len(text)

        monkeypatch.setattr(sys, "stdout", Full())
        monkeypatch.setattr(sys, "stderr", Full())
        arguments = ["guard", "--policy", str(policy)] if command == "guard" else [command]
        assert ends(scene, arguments, Interrupts(hang.began)) < SOON
        assert scene.left == [statuses.INTERRUPTED]

    def test_the_first_is_the_commands(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(subprocess.Popen, "wait", None)  # the command may run for hours: nothing may wait for it
            ends(scene, ["run"], Interrupts())
        assert "Ctrl+C went to the command; press it again to end procmon" in capsys.readouterr().err
        assert scene.gate is not None and scene.gate.closed

    def test_the_end_of_the_command_is_waited_for_in_slices(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On Windows Ctrl+C does not interrupt a wait for a process."""
        slices: list[float | None] = []

        def wait(command: "subprocess.Popen[bytes]", timeout: float | None = None) -> int:
            slices.append(timeout)
            if len(slices) < 3:
                raise subprocess.TimeoutExpired("make", timeout or 0.0)
            return 7

        with monkeypatch.context() as patch:
            patch.setattr(subprocess.Popen, "wait", wait)
            assert main.main(["run", "make"], scene.gates(lambda _: None)) == 7
        assert slices == [hold_commands.WAIT_SLICE_S] * 3

    def test_in_the_middle_of_a_line_that_no_reader_takes(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        """Unwritten output stays in Python's buffer, and Python's own end would try again."""

        class Full(io.StringIO):
            def write(self, text: str) -> int:
                raise KeyboardInterrupt

        monkeypatch.setattr(sys, "stdout", Full())
        main.main(["watch"], scene.gates(lambda _: None))
        assert scene.left == [statuses.INTERRUPTED]


@pytest.mark.parametrize("fail", [ALLOW, BLOCK])
class TestWhatIsHeldAtTheEnd:
    """It gets the verdict of ``--fail``, whenever it starts."""

    def check(self, scene: Scene, arguments: list[str], fail: Verdict, late: list[procmon.ProcessHelper]) -> None:
        """One process is asked about until Ctrl+C; another may come `late`."""
        interrupts = Interrupts()
        ends(scene, [*arguments, "--fail", fail.value], interrupts, keys="")
        assert scene.gate is not None
        held = interrupts.started + late
        assert [scene.gate.verdict_of(process) for process in held] == [fail] * len(held)

    @pytest.mark.parametrize("command", ["run", "guard"])
    def test_a_question_that_is_open(self, command: str, fail: Verdict, scene: Scene, policy: Path) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        self.check(scene, [command, "--policy", str(policy)], fail, [])

    @pytest.mark.parametrize("command", ["run", "guard"])
    @pytest.mark.parametrize("asked", [True, False])
    def test_what_starts_between_ctrl_c_and_the_stop(
        self,
        asked: bool,
        command: str,
        fail: Verdict,
        scene: Scene,
        policy: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        late: list[procmon.ProcessHelper] = []
        stop = Session._stop

        def stopping(session: Session, patience: float | None) -> None:
            assert scene.gate is not None
            late.append(scene.gate.start("c:/tools/late.exe"))
            if asked:
                until(lambda: session.monitor.statistics.deferred == 3, "the question")
            stop(session, patience)

        monkeypatch.setattr(Session, "_stop", stopping)
        self.check(scene, [command, "--policy", str(policy)], fail, late)
        assert late

    def test_what_starts_after_the_last_answer(
        self, fail: Verdict, scene: Scene, policy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        late: list[procmon.ProcessHelper] = []
        close = CommandGate.close

        def closing(gate: CommandGate) -> None:
            if not late:
                late.append(gate.start("c:/tools/late.exe"))
            close(gate)

        monkeypatch.setattr(CommandGate, "close", closing)
        self.check(scene, ["guard", "--policy", str(policy)], fail, late)
        assert late

    @pytest.mark.parametrize("command", ["run", "guard"])
    def test_also_where_the_log_hangs(
        self, command: str, fail: Verdict, scene: Scene, policy: Path, hang: Hang, log: Path
    ) -> None:
        interrupts = Interrupts(hang.began)
        arguments = [command, "--policy", str(policy), "--log", str(log), "--fail", fail.value]
        ends(scene, arguments, interrupts)
        assert scene.gate is not None
        assert [scene.gate.verdict_of(process) for process in interrupts.started] == [fail] * 2

    def test_the_driver_gets_the_verdict(self, fail: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
        told: dict[str, object] = {}
        monkeypatch.setattr("procmon.gates.driver.DriverGate", lambda **options: told.update(options))
        main.Gates().driver(hold_timeout=5.0, fail=fail, check_before_release=True)
        assert told == {"hold_timeout": 5.0, "fail": fail, "check_before_release": True}

    def test_but_audit_keeps_nothing_from_running(self, fail: Verdict, scene: Scene, policy: Path) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        ends(scene, ["guard", "--audit", "--policy", str(policy), "--fail", fail.value], Interrupts())
        assert scene.asked["fail"] is ALLOW


@pytest.mark.parametrize("command", ["run", "guard"])
def test_a_gate_that_fails_has_a_summary_too(
    command: str, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(gate: CommandGate) -> None:
        process = gate.start("c:/tools/a.exe")
        assert scene.questions.wait(PATIENCE)
        gate.fail(OSError(6, "the handle is invalid"))
        assert gate.verdict_of(process) is BLOCK

    policy.write_text(ASKING, encoding="utf-8")
    arguments = [command, "--policy", str(policy), "--fail", "block", *["make"][: command == "run"]]
    assert main.main(arguments, scene.gates(fail, keys="")) == statuses.FAILED
    out, err = capsys.readouterr()
    assert "1 held: 0 allowed, 1 blocked\n" in out + err
    assert "the handle is invalid" in err


def test_watch_ends_when_the_reader_has_gone(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "broken pipe")

    def endless(gate: CommandGate) -> None:
        gate.start("c:/a.exe")
        until(lambda: gate.closed, "the end of the command")

    monkeypatch.setattr(sys, "stdout", Closed())
    assert main.main(["watch"], scene.gates(endless)) == statuses.BROKEN_PIPE
