"""Monitor: a handler of the log that hangs or raises delays no process and no stop."""

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

import procmon
from ctrl_c import HangingGate
from made_up_device import Device
from monitoring import until, waits_for
from patience import PATIENCE
from procmon import ALLOW, BLOCK
from procmon.driver import protocol
from procmon.monitor import engine
from procmon.util.log import log_soon

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def hanging_log() -> Iterator[threading.Event]:
    """The log of procmon hangs until the test ends; the event is set when a line has come.

    Windows blocks every write to a console in which a user selects text.
    """
    release, came = threading.Event(), threading.Event()

    class Console(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            came.set()
            release.wait(PATIENCE)

    logger, console = logging.getLogger("procmon"), Console()
    logger.addHandler(console)
    yield came
    release.set()
    logger.removeHandler(console)


def test_a_handler_of_the_log_that_hangs_delays_no_process(
    gate: procmon.SimulatedGate, hanging_log: threading.Event
) -> None:
    release = threading.Event()
    with procmon.Monitor(gate, deadline=0.05, on_deadline=BLOCK) as monitor:
        monitor.subscribe(waits_for(release), match="hang.exe")
        assert gate.verdict_of(gate.start("hang.exe"), timeout=PATIENCE) is BLOCK
        assert hanging_log.wait(PATIENCE)
        assert gate.verdict_of(gate.start("fine.exe"), timeout=PATIENCE) is ALLOW
    release.set()


def test_a_log_that_hangs_keeps_no_other_process_from_the_gate_when_one_cannot_be_terminated(
    hanging_log: threading.Event,
) -> None:
    class Undying(procmon.SimulatedGate):
        def fetch(self) -> list[procmon.ProcessHelper]:
            failed = procmon.ProcessFlags.TERMINATE_FAILED
            return [replace(one, flags=one.flags | failed) if one.name == "b.exe" else one for one in super().fetch()]

    gate = Undying()
    with procmon.Monitor(gate):
        gate.start("b.exe")
        assert hanging_log.wait(PATIENCE)
        assert gate.verdict_of(gate.start("fine.exe"), timeout=PATIENCE) is ALLOW


def test_a_gate_that_hangs_is_closed_although_the_log_hangs_too(
    hanging_log: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STOP_TIMEOUT_S", 0.05)
    monkeypatch.setattr(engine, "LOG_TIMEOUT_S", 0.05)
    gate = HangingGate()
    gate.hanging = "verdict"
    monitor = procmon.Monitor(gate, default=procmon.DEFER)
    monitor.start()
    gate.start("a.exe")
    until(lambda: monitor.pending, "the process, held")
    monitor._engine.begin_stop()
    assert monitor.wait(PATIENCE)
    assert gate.closed and hanging_log.wait(PATIENCE)
    gate.go_on.set()


def test_a_line_below_the_level_of_the_log_occupies_no_helper_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def submit(*arguments: object, **options: object) -> None:
        raise RuntimeError("a helper thread was asked for")

    monkeypatch.setattr("procmon.util.log.submit", submit)
    caplog.set_level(logging.INFO, "procmon")
    assert log_soon(logging.DEBUG, "unseen").done.is_set
    with pytest.raises(RuntimeError):
        log_soon(logging.WARNING, "seen")


def test_the_end_of_the_program_waits_for_no_log_that_hangs(
    hanging_log: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate hangs while it is closed: the end of the program gives up, and its line cannot be logged, either."""
    monkeypatch.setattr(engine, "EXIT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(engine, "LOG_TIMEOUT_S", 0.05)
    gate = HangingGate()
    gate.hanging = "close"
    monitor = procmon.Monitor(gate)
    monitor.start()
    ending = threading.Thread(target=engine._stop_all)
    ending.start()
    assert hanging_log.wait(PATIENCE)
    ending.join(PATIENCE)
    assert not ending.is_alive()
    gate.go_on.set()
    assert monitor.wait(PATIENCE)


def test_a_driver_that_goes_ends_the_gate_although_the_log_hangs(hanging_log: threading.Event) -> None:
    device = Device()
    gate = procmon.DriverGate(device)
    device.errors[protocol.INFO] = 21
    waiting = threading.Thread(target=gate.wait, args=(30,))
    waiting.start()
    waiting.join(PATIENCE)
    assert not waiting.is_alive() and gate.closed and device.closed
    assert hanging_log.wait(PATIENCE)


@pytest.mark.parametrize("error", [ValueError("no such window"), SystemExit(1)], ids=["error", "exit"])
def test_a_handler_of_the_log_that_raises_costs_no_process_its_answer(
    gate: procmon.SimulatedGate, error: BaseException
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise error

    class Sink:
        def write(self, decision: procmon.Decision) -> None:
            raise OSError(28, "no space left")

    logger, broken = logging.getLogger("procmon"), Broken()
    logger.addHandler(broken)
    try:
        with procmon.Monitor(gate, on_error=BLOCK, audit=Sink()) as monitor:
            monitor.subscribe(lambda process: BLOCK if 1 / 0 else None)
            assert [gate.verdict_of(gate.start(image)) for image in ("a.exe", "b.exe")] == [BLOCK, BLOCK]
        assert monitor.statistics.audit_errors == 2
    finally:
        logger.removeHandler(broken)


def test_when_a_monitor_has_stopped_the_reason_is_in_the_log(gate: procmon.SimulatedGate) -> None:
    lines: list[str] = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.1)
            lines.append(record.getMessage())

    logger, slow = logging.getLogger("procmon"), Slow()
    logger.addHandler(slow)
    try:
        with procmon.Monitor(gate) as monitor:
            gate.fail(OSError(6, "the handle is invalid"))
            assert monitor.wait(PATIENCE)
            assert any("reading from the gate failed" in line for line in lines)
    finally:
        logger.removeHandler(slow)
