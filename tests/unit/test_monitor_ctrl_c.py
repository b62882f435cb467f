"""Monitor: Ctrl+C at any moment ends the wait, and loses neither a process nor a decision."""

import _thread
import signal
import threading
import time

import procmon
import pytest
from monitoring import gate, until  # noqa: F401  (a fixture)
from procmon import ALLOW, BLOCK, DEFER
from procmon.records import DecidedBy


@pytest.mark.parametrize("waiting", ["wait", "starts"])
def test_ctrl_c_ends_a_wait_within_half_a_second(gate, waiting):
    """`interrupt_main` leaves a lock waiting, as Ctrl+C does on Windows, so this shows on any system."""
    with procmon.Monitor(gate) as monitor:
        timer = threading.Timer(0.05, _thread.interrupt_main)
        timer.start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            monitor.wait(5) if waiting == "wait" else list(monitor.starts(timeout=5))
            time.sleep(0)
        assert time.monotonic() - began < 0.5


@pytest.mark.parametrize("sent", [False, True])
def test_a_verdict_that_is_interrupted_can_be_given_again(gate, monkeypatch, sent):
    def interrupted(*processes):
        if sent:
            allow(*processes)
        raise KeyboardInterrupt

    allow = gate.allow
    with procmon.Monitor(gate, default=DEFER) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(gate, "allow", interrupted)
            monitor.allow(process)
        assert monitor.pending == [process]  # it may be held still, and is not forgotten
        if sent:
            with pytest.raises(procmon.AlreadyAnswered):
                monitor.block(process)
        else:
            monitor.block(process)
        assert monitor.pending == []
    assert gate.verdict_of(process) is (ALLOW if sent else BLOCK)


def test_a_decision_whose_writing_is_interrupted_is_written_later(gate):
    class Sink:
        written = []

        def write(self, decision):
            if not self.written:
                self.written.append("interrupted")
                raise KeyboardInterrupt
            self.written.append(decision.process.name)

    with procmon.Monitor(gate, default=DEFER, audit=Sink()) as monitor:
        process = gate.start("a.exe")
        until(lambda: monitor.pending, "it, held")
        with pytest.raises(KeyboardInterrupt):
            monitor.allow(process)
    assert Sink.written == ["interrupted", "a.exe"]


def test_a_stop_that_is_interrupted_still_closes_the_gate(gate, monkeypatch):
    monitor = procmon.Monitor(gate, default=DEFER)
    monitor.start()
    processes = [gate.start("a.exe"), gate.start("b.exe")]
    until(lambda: len(monitor.pending) == 2, "both, held")
    monkeypatch.setattr(gate, "allow", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        monitor.stop()
    assert [gate.verdict_of(process) for process in processes] == [ALLOW, ALLOW]
    assert [(one.process.name, one.by, one.answer) for one in monitor.history] == [
        ("a.exe", DecidedBy.STOP, None),
        ("b.exe", DecidedBy.STOP, None),
    ]
    assert repr(monitor) == "<Monitor stopped on simulated: 0 allowed, 0 blocked, 0 pending>"
    monitor.stop()
    assert not monitor.running
