"""The window of the examples, driven by tests: over a simulated gate, with a stand-in for the driver's service."""

import time
import tkinter as tk
from collections.abc import Callable
from typing import cast

import procmon
import window
from _window.question import Question
from _window.view import View
from patience import PATIENCE
from procmon.driver.service import DriverService, DriverState, DriverStatus

__all__ = ["KEPT", "Service", "Tool"]

KEPT: list[tk.Tk] = []
"""Tcl ends the program when a garbage collection in one thread deletes an object that another thread made."""


class Service:
    """A driver's service without a driver: it knows its state, and refuses to start."""

    def __init__(self) -> None:
        self.state = DriverState.NOT_INSTALLED
        self.installed: list[object] = []

    def install(self, path: object) -> None:
        self.installed.append(path)
        self.state = DriverState.STOPPED

    def start(self) -> None:
        raise procmon.DriverNotSigned("Windows does not accept the signature (error 577): turn on test signing")

    def status(self) -> DriverStatus:
        return DriverStatus("ProcMonGate", self.state)


class Tool:
    """The window under test, with its gate and service."""

    def __init__(self) -> None:
        self.gates: list[procmon.SimulatedGate] = []
        self.service = Service()
        self.window = window.Window(self.make_gate, "c:/drivers/procmon.sys", self.make_service)
        self.root = self.view.root
        KEPT.append(self.root)
        self.errors: list[BaseException] = []
        self.root.report_callback_exception = self.report

    def report(self, kind: object, error: BaseException, trace: object) -> None:
        """As the window does; any error other than ProcmonError is a fault."""
        if not isinstance(error, procmon.ProcmonError):
            self.errors.append(error)
        self.view.say(error)

    def make_service(self) -> DriverService:
        return cast(DriverService, self.service)

    def make_gate(self) -> procmon.SimulatedGate:
        self.gates.append(procmon.SimulatedGate())
        return self.gates[-1]

    @property
    def gate(self) -> procmon.SimulatedGate:
        return self.gates[-1]

    @property
    def view(self) -> View:
        return self.window.view

    def until(self, condition: Callable[[], object], timeout: float = PATIENCE) -> None:
        """Run Tk until a condition holds."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "the condition did not become true in time"
            self.root.update()
            time.sleep(0.01)
        self.root.update()
        assert not self.errors

    def start(self, count: int = 0) -> list[procmon.ProcessHelper]:
        """Start the monitoring and `count` processes; wait for their windows."""
        self.view.monitoring.buttons["Start"].invoke()
        self.until(lambda: self.window.monitor and self.window.monitor.running)
        processes = [self.gate.start(f"c:/tools/tool-{n}.exe", command_line=f"tool-{n} --fast") for n in range(count)]
        self.until(lambda: len(self.questions) == count)
        return processes

    @property
    def questions(self) -> dict[procmon.ProcessHelper, Question]:
        return self.view.questions

    def hidden(self) -> list[procmon.ProcessHelper]:
        """The processes whose clock or buttons are not completely visible."""
        self.root.update()
        return [
            process
            for process, question in self.questions.items()
            for widget in (question.clock, *question.buttons.values())
            for x in (1, widget.winfo_width() - 2)
            for y in (1, widget.winfo_height() - 2)
            if self.root.winfo_containing(widget.winfo_rootx() + x, widget.winfo_rooty() + y) is not widget
        ]

    @property
    def rows(self) -> list[list[str]]:
        """Verdict, image and decider of each row, newest first."""
        table = self.view.table
        return [[str(table.set(key, column)) for column in ("Verdict", "Image", "Who")] for key in table.get_children()]

    def give_keyboard(self, question: Question) -> None:
        """As after a click of the user, long enough ago that the question accepts keys."""
        question.focus_force()
        self.root.update()
        question.ignored_until = 0.0

    @property
    def note(self) -> str:
        """The message that is shown, if any."""
        return str(self.view.note_text.cget("text")) if self.view.note.winfo_ismapped() else ""
