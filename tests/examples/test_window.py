"""The article's tool, driven on a screen of its own: real windows, real events, a simulated gate."""

import time
import tkinter as tk
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import _scene
import pytest
import window
from _window import DEAF_SECONDS, Question
from examples.screen import Screen

import procmon
from procmon.service import DriverService, DriverState, DriverStatus

PICTURE = Path(__file__).resolve().parents[2] / "build" / "window.png"
"""The window as this run saw it; docs/window.png is such a picture."""


KEPT: list[tk.Tk] = []
"""Tcl ends the program when a garbage collector, in whatever thread it runs, deletes what another thread made."""


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
    """The window under test, with what it stands on."""

    def __init__(self, display: str) -> None:
        self.gates: list[procmon.SimulatedGate] = []
        self.service = Service()
        self.root = tk.Tk(screenName=display)
        self.root.geometry("+40+40")
        KEPT.append(self.root)
        self.errors: list[BaseException] = []
        self.root.report_callback_exception = lambda kind, error, trace: self.errors.append(error)
        self.window = window.Window(self.root, self.make_gate, self.make_service, "c:/drivers/procmon.sys")

    def make_service(self) -> DriverService:
        return cast(DriverService, self.service)

    def make_gate(self) -> procmon.SimulatedGate:
        self.gates.append(procmon.SimulatedGate())
        return self.gates[-1]

    @property
    def gate(self) -> procmon.SimulatedGate:
        return self.gates[-1]

    def until(self, condition: Callable[[], object], timeout: float = 10) -> None:
        """Let Tk go on until something is so."""
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, "it did not come to be so in time"
            self.root.update()
            time.sleep(0.01)
        self.root.update()
        assert not self.errors

    def start(self, count: int = 0) -> list[procmon.ProcessHelper]:
        """Start the monitoring, and so many processes; wait for their windows."""
        self.window.monitor_buttons["Start"].invoke()
        self.until(lambda: self.window.monitor and self.window.monitor.running)
        processes = [self.gate.start(f"c:/tools/tool-{n}.exe", command_line=f"tool-{n} --fast") for n in range(count)]
        self.until(lambda: len(self.questions) == count)
        return processes

    @property
    def questions(self) -> dict[procmon.ProcessHelper, Question]:
        return self.window.questions

    @property
    def rows(self) -> list[list[str]]:
        """Verdict, image and who of each row, newest first."""
        table = self.window.table
        return [[str(table.set(key, column)) for column in ("Verdict", "Image", "Who")] for key in table.get_children()]

    def give_keyboard(self, question: Question) -> None:
        """As a click of the user would, and long enough ago for keys to be meant for it."""
        question.focus_force()
        self.root.update()
        question.deaf_until = 0.0

    @property
    def note(self) -> str:
        """The message that is on show, if any."""
        return str(self.window.note_text.cget("text")) if self.window.note.winfo_ismapped() else ""


@pytest.fixture(scope="module")
def screen() -> Iterator[Screen]:
    with Screen() as screen:
        yield screen


@pytest.fixture
def tool(screen: Screen) -> Iterator[Tool]:
    tool = Tool(screen.display)
    yield tool
    tool.window.close()
    assert not tool.errors


def test_several_processes_are_asked_about_at_once_and_no_window_hides_the_buttons_of_another(tool: Tool) -> None:
    processes = tool.start(6)
    for process in processes:
        question = tool.questions[process]
        for button in question.buttons.values():
            x, y = button.winfo_rootx() + button.winfo_width() // 2, button.winfo_rooty() + button.winfo_height() // 2
            assert tool.root.winfo_containing(x, y) is button, process
    assert tool.rows[0] == ["held", r"c:\tools\tool-5.exe", ""]


def test_each_window_answers_for_its_own_process_in_any_order(tool: Tool) -> None:
    first, second, third = tool.start(3)
    tool.questions[third].buttons[procmon.BLOCK].invoke()
    tool.questions[first].buttons[procmon.ALLOW].invoke()
    tool.until(lambda: list(tool.questions) == [second])
    assert tool.gate.verdict_of(third) is procmon.BLOCK
    assert tool.gate.verdict_of(first) is procmon.ALLOW
    assert tool.gate.verdict_of(second, 0) is None
    assert [row[0] for row in tool.rows] == ["blocked", "held", "allowed"]
    assert tool.rows[0][2] == "you"


@pytest.mark.parametrize(
    ("key", "verdict"),
    [("<Return>", procmon.ALLOW), ("a", procmon.ALLOW), ("A", procmon.ALLOW),
     ("<Escape>", procmon.BLOCK), ("b", procmon.BLOCK), ("B", procmon.BLOCK)],
)  # fmt: skip
def test_a_key_answers(tool: Tool, key: str, verdict: procmon.Verdict) -> None:
    [process] = tool.start(1)
    tool.give_keyboard(tool.questions[process])
    tool.questions[process].event_generate(key)
    tool.until(lambda: not tool.questions)
    assert tool.gate.verdict_of(process) is verdict


def test_a_key_right_after_a_window_got_the_keyboard_was_meant_for_another(tool: Tool) -> None:
    first, second = tool.start(2)
    tool.give_keyboard(tool.questions[first])
    tool.questions[first].event_generate("a")
    tool.until(lambda: first not in tool.questions)
    question = tool.questions[second]
    tool.until(lambda: question.focus_displayof() is not None)
    question.event_generate("a")
    tool.root.update()
    assert tool.gate.verdict_of(second, 0) is None
    time.sleep(DEAF_SECONDS)
    question.event_generate("b")
    tool.until(lambda: not tool.questions)
    assert tool.gate.verdict_of(second) is procmon.BLOCK


def test_closing_a_window_allows(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.root.tk.call(tool.questions[process].protocol("WM_DELETE_WINDOW"))
    tool.until(lambda: not tool.questions)
    assert tool.gate.verdict_of(process) is procmon.ALLOW


def test_more_processes_than_places_wait_in_the_table_and_get_the_places_that_become_free(tool: Tool) -> None:
    tool.window.monitor_buttons["Start"].invoke()
    tool.until(lambda: tool.window.monitor)
    processes = [tool.gate.start(f"c:/tools/tool-{n}.exe") for n in range(60)]
    tool.until(lambda: len(tool.rows) == 60)
    shown = list(tool.questions)
    assert 6 <= len(shown) < 60 and shown == processes[: len(shown)]
    place = tool.questions[shown[1]].winfo_geometry()
    tool.questions[shown[1]].buttons[procmon.ALLOW].invoke()
    tool.until(lambda: processes[len(shown)] in tool.questions)
    tool.root.update()
    assert tool.questions[processes[len(shown)]].winfo_geometry().split("+", 1)[1] == place.split("+", 1)[1]
    tool.window.monitor_buttons["Block all"].invoke()
    tool.until(lambda: not tool.window.held)
    assert {tool.gate.verdict_of(process) for process in processes} == {procmon.ALLOW, procmon.BLOCK}


def test_the_gates_own_timeout_closes_the_window_and_the_table_says_who_decided(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.gate.time_out(process)
    tool.until(lambda: not tool.questions)
    assert tool.rows == [["allowed", r"c:\tools\tool-0.exe", "gate timeout"]]


def test_a_process_that_dies_while_it_is_held_takes_its_window_along(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.gate.exit(process, 1)
    tool.until(lambda: not tool.questions)
    assert tool.rows[0][0] == "gone"


def test_a_window_says_how_long_its_process_was_held_and_what_time_it_has_left(tool: Tool) -> None:
    tool.start()
    process = tool.gate.start("c:/tools/a.exe", hold_left=60)
    tool.until(lambda: process in tool.questions)
    tool.questions[process].since -= 3.5
    tool.until(lambda: "held 0:04, 0:55 left" in tool.questions[process].clock.cget("text"))
    assert tool.questions[process].title() == "a.exe waits"


def test_stopping_lets_go_what_is_held_and_the_monitoring_can_start_again(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.window.monitor_buttons["Stop"].invoke()
    tool.until(lambda: not tool.questions and str(tool.window.monitor_buttons["Start"].cget("state")) == "normal")
    assert tool.gate.verdict_of(process) is procmon.ALLOW
    assert tool.rows[0][2] == "stop"
    tool.window.monitor_buttons["Start"].invoke()
    tool.until(lambda: len(tool.gates) == 2 and tool.window.monitor and tool.window.monitor.running)
    second = tool.gate.start("c:/tools/b.exe")
    tool.until(lambda: second in tool.questions)


def test_closing_the_main_window_lets_go_what_is_held(screen: Screen) -> None:
    tool = Tool(screen.display)
    [process] = tool.start(1)
    tool.window.close()
    assert tool.gate.verdict_of(process) is procmon.ALLOW
    assert tool.gate.closed


def test_a_gate_that_cannot_be_made_is_told_in_the_window(tool: Tool) -> None:
    def refuse() -> procmon.SimulatedGate:
        raise procmon.DriverNotRunning("the driver is installed, but not started: press Start")

    tool.window.make_gate = refuse
    tool.window.monitor_buttons["Start"].invoke()
    tool.until(lambda: tool.note == "the driver is installed, but not started: press Start")
    assert str(tool.window.monitor_buttons["Start"].cget("state")) == "normal"


def test_a_gate_that_fails_later_is_told_in_the_window(tool: Tool) -> None:
    tool.start()
    tool.gate.fail(procmon.DriverNotRunning("the driver was stopped: start it again"))
    tool.until(lambda: tool.note == "the driver was stopped: start it again")


def test_the_driver_buttons_offer_what_can_be_done_and_tell_what_went_wrong(tool: Tool) -> None:
    buttons = tool.window.driver_buttons

    def offered() -> list[str]:
        return [word for word, button in buttons.items() if str(button.cget("state")) == "normal"]

    tool.until(lambda: offered() == ["Install"])
    buttons["Install"].invoke()
    tool.until(lambda: offered() == ["Start", "Delete"])
    assert tool.service.installed == ["c:/drivers/procmon.sys"] and tool.note == ""
    buttons["Start"].invoke()
    tool.until(lambda: "error 577" in tool.note and offered() == ["Start", "Delete"])
    tool.service.state = DriverState.RUNNING  # somebody else started it
    tool.until(lambda: offered() == ["Stop"])


def test_where_there_is_no_driver_a_click_says_why(screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", screen.display)
    made = window.make(["--simulate"])
    KEPT.append(made.root)
    try:
        made.driver_buttons["Install"].invoke()
        end = time.monotonic() + 10
        while not made.note.winfo_ismapped() and time.monotonic() < end:
            made.root.update()
        assert "DriverService needs Windows" in made.note_text.cget("text")
    finally:
        made.close()


def test_the_simulated_scene_looks_as_in_the_documentation(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    service.state = DriverState.RUNNING
    with Screen(1440, 700) as screen:
        monkeypatch.setenv("DISPLAY", screen.display)
        made = window.make(["--simulate"])
        KEPT.append(made.root)
        made.make_service = lambda: cast(DriverService, service)
        made.tell_driver()
        desk = tk.Toplevel(made.root, background="#5b6b7d")
        desk.overrideredirect(True)
        desk.geometry(f"{desk.winfo_screenwidth()}x{desk.winfo_screenheight()}+0+0")
        desk.update()
        made.root.lift()
        made.monitor_buttons["Start"].invoke()
        end, answers = time.monotonic() + 20, {"explorer.exe": procmon.ALLOW, "setup-3.1.exe": procmon.BLOCK}
        while answers or len(made.table.get_children()) < len(_scene.SCENE) or len(made.questions) < len(made.held):
            assert time.monotonic() < end
            made.root.update()
            time.sleep(0.01)
            for process in [process for process in made.questions if process.name in answers]:
                made.answer(process, answers.pop(process.name))
        settled = time.monotonic() + 1.5
        while time.monotonic() < settled:
            made.root.update()
            time.sleep(0.01)
        PICTURE.parent.mkdir(exist_ok=True)
        screen.save(PICTURE)
        width, _, rgb = screen.pixels()
        tints = [(question.buttons[procmon.ALLOW], "e0f1e8") for question in made.questions.values()]
        for button, tint in [*tints, (made.monitor_buttons["Stop"], "e8ecf1")]:
            at = 3 * ((button.winfo_rooty() + 4) * width + button.winfo_rootx() + 4)
            assert rgb[at : at + 3] == bytes.fromhex(tint), f"{button} is not to be seen"
        made.close()
