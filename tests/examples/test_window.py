"""The article's tool on a virtual screen: real windows, real events, a simulated gate."""

import time
from collections.abc import Iterator
from tkinter.font import Font
from tkinter.ttk import Style

import pytest

import procmon
from _window import look
from _window.question import IGNORE_KEYS_S
from examples.screen import Screen
from examples.tool import Tool
from procmon.driver.service import DriverState


@pytest.fixture
def tool(screen: Screen | None) -> Iterator[Tool]:
    tool = Tool()
    yield tool
    tool.window.close()
    assert not tool.errors


def test_several_processes_are_asked_about_at_once_and_no_window_hides_the_buttons_of_another(tool: Tool) -> None:
    tool.start(6)
    assert tool.hidden() == []
    assert tool.rows[0] == ["held", r"c:\tools\tool-5.exe", ""]


def test_a_window_in_a_place_that_became_free_hides_no_other(tool: Tool) -> None:
    processes = tool.start(4)
    tool.questions[processes[1]].buttons[procmon.ALLOW].invoke()
    tool.until(lambda: len(tool.questions) == 3)
    late = tool.gate.start("c:/tools/late.exe")
    tool.until(lambda: late in tool.questions)
    assert tool.questions[late].corner == tool.view.corners[1]
    assert tool.hidden() == []


def test_each_window_answers_for_its_own_process_in_any_order(tool: Tool) -> None:
    first, second, third = tool.start(3)
    tool.questions[third].buttons[procmon.BLOCK].invoke()
    tool.questions[first].buttons[procmon.ALLOW].invoke()
    assert list(tool.questions) == [second]
    assert tool.gate.verdict_of(third) is procmon.BLOCK
    assert tool.gate.verdict_of(first) is procmon.ALLOW
    assert tool.gate.verdict_of(second, 0) is None
    tool.until(lambda: [row[0] for row in tool.rows] == ["blocked", "held", "allowed"])
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
    question = tool.questions[second]
    tool.give_keyboard(tool.questions[first])
    question.ignored_until = 0.0
    tool.questions[first].event_generate("a")
    tool.until(lambda: first not in tool.questions)
    tool.until(lambda: question.focus_displayof() is not None and question.ignored_until > 0)
    question.ignored_until += 60  # so that a slow machine does not end the moment
    question.event_generate("a")
    tool.root.update()
    assert tool.gate.verdict_of(second, 0) is None
    question.ignored_until = 0.0
    question.event_generate("b")
    tool.until(lambda: not tool.questions)
    assert tool.gate.verdict_of(second) is procmon.BLOCK


def test_the_keyboard_stays_with_its_window_when_another_one_is_answered(tool: Tool) -> None:
    first, _, third = tool.start(3)
    tool.give_keyboard(tool.questions[third])
    tool.questions[first].buttons[procmon.ALLOW].invoke()
    tool.root.update()
    focus = tool.root.focus_displayof()
    assert focus is not None and focus.winfo_toplevel() is tool.questions[third]


def test_enter_presses_the_button_that_has_the_keyboard(tool: Tool) -> None:
    [process] = tool.start(1)
    block = tool.questions[process].buttons[procmon.BLOCK]
    tool.give_keyboard(tool.questions[process])
    block.focus_force()
    tool.root.update()
    tool.questions[process].ignored_until = 0.0
    block.event_generate("<Return>")
    tool.until(lambda: not tool.questions)
    assert tool.gate.verdict_of(process) is procmon.BLOCK


def test_closing_a_window_allows(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.root.tk.call(tool.questions[process].protocol("WM_DELETE_WINDOW"))
    tool.until(lambda: not tool.questions)
    assert tool.gate.verdict_of(process) is procmon.ALLOW


def test_more_processes_than_places_wait_in_the_table_and_get_the_places_that_become_free(tool: Tool) -> None:
    tool.view.monitoring.buttons["Start"].invoke()
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
    tool.view.monitoring.buttons["Block all"].invoke()
    tool.until(lambda: not tool.view.held)
    assert {tool.gate.verdict_of(process) for process in processes} == {procmon.ALLOW, procmon.BLOCK}


def test_block_all_blocks_the_others_where_it_is_too_late_for_one(tool: Tool) -> None:
    processes = tool.start(3)
    tool.gate.exit(processes[0], 1)
    tool.view.monitoring.buttons["Block all"].invoke()
    tool.until(lambda: [row[0] for row in tool.rows] == ["blocked", "blocked", "gone"])


def test_the_gates_own_timeout_closes_the_window_and_the_table_says_who_decided(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.gate.time_out(process)
    tool.until(lambda: not tool.questions)
    assert tool.rows == [["allowed", r"c:\tools\tool-0.exe", "gate timeout"]]


def test_a_process_that_ends_while_it_is_held_closes_its_window(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.gate.exit(process, 1)
    tool.until(lambda: not tool.questions)
    assert tool.rows[0][0] == "gone"


@pytest.mark.parametrize("monitor_knows", [True, False])
def test_an_answer_to_a_dead_process_is_reported_and_the_table_says_that_it_is_gone(
    tool: Tool, monitor_knows: bool
) -> None:
    [process] = tool.start(1)

    def answer_too_late() -> None:
        tool.gate.exit(process, 1)
        while monitor_knows and not tool.window.monitor.statistics.exited:
            time.sleep(0.01)
        tool.window.answer(process, procmon.ALLOW)

    tool.view.later(answer_too_late)
    tool.until(lambda: "has gone" in tool.note and tool.rows[0][0] == "gone")


def test_a_verdict_that_came_too_late_is_not_what_the_table_shows(tool: Tool) -> None:
    [process] = tool.start(1)
    late = procmon.Decision(
        process=process, verdict=procmon.ALLOW, by=procmon.DecidedBy.USER, result=procmon.VerdictResult.UNKNOWN
    )
    tool.view.decided(late)
    assert tool.rows[0][0] == "held" and not tool.questions
    tool.gate.exit(process, 1)
    tool.until(lambda: tool.rows[0][0] == "gone")


def test_an_answer_after_the_gates_own_is_reported_and_the_table_says_what_the_gate_did(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.view.later(tool.gate.time_out, process, procmon.BLOCK)
    tool.view.later(tool.window.answer, process, procmon.ALLOW)
    tool.until(lambda: "has had its verdict" in tool.note and not tool.questions)
    tool.until(lambda: tool.rows == [["blocked", r"c:\tools\tool-0.exe", "gate timeout"]])


def test_a_window_says_how_long_its_process_was_held_and_what_time_it_has_left(tool: Tool) -> None:
    tool.start()
    process = tool.gate.start("c:/tools/a.exe", hold_left=60)
    tool.until(lambda: process in tool.questions)
    tool.questions[process].since -= 3.5
    tool.until(lambda: "held 0:04, 0:55 left" in tool.questions[process].clock.cget("text"))
    assert tool.questions[process].title() == "a.exe waits"


def test_stopping_releases_what_is_held_and_the_monitoring_can_start_again(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.view.monitoring.buttons["Stop"].invoke()
    tool.until(lambda: not tool.questions and str(tool.view.monitoring.buttons["Start"].cget("state")) == "normal")
    assert tool.gate.verdict_of(process) is procmon.ALLOW
    assert tool.rows[0][2] == "stop"
    tool.view.monitoring.buttons["Start"].invoke()
    tool.until(lambda: len(tool.gates) == 2 and tool.window.monitor and tool.window.monitor.running)
    second = tool.gate.start("c:/tools/b.exe")
    tool.until(lambda: second in tool.questions)
    assert [row[:2] for row in tool.rows] == [["held", r"c:\tools\b.exe"], ["allowed", r"c:\tools\tool-0.exe"]]


def test_a_double_click_on_start_starts_once(tool: Tool) -> None:
    for _ in range(2):
        tool.view.monitoring.buttons["Start"].invoke()
    assert len(tool.gates) == 1


def test_closing_the_main_window_releases_what_is_held(screen: Screen | None) -> None:
    tool = Tool()
    [process] = tool.start(1)
    tool.window.close()
    assert tool.gate.verdict_of(process) is procmon.ALLOW
    assert tool.gate.closed


def test_a_gate_that_cannot_be_made_is_reported_in_the_window(tool: Tool) -> None:
    def refuse() -> procmon.SimulatedGate:
        raise procmon.DriverNotRunning("the driver is installed, but not started: press Start")

    tool.window.make_gate = refuse
    tool.view.monitoring.buttons["Start"].invoke()
    tool.until(lambda: tool.note == "the driver is installed, but not started: press Start")
    assert str(tool.view.monitoring.buttons["Start"].cget("state")) == "normal"


def test_a_gate_that_fails_later_is_reported_in_the_window(tool: Tool) -> None:
    tool.start()
    tool.gate.fail(procmon.DriverNotRunning("the driver was stopped: start it again"))
    tool.until(lambda: tool.note == "the driver was stopped: start it again")


def test_the_driver_buttons_offer_what_can_be_done_and_tell_what_went_wrong(tool: Tool) -> None:
    buttons = tool.view.driver.buttons

    def offered() -> list[str]:
        return [word for word, button in buttons.items() if str(button.cget("state")) == "normal"]

    tool.until(lambda: offered() == ["Install"])
    buttons["Install"].invoke()
    tool.until(lambda: offered() == ["Start", "Delete"])
    assert tool.service.installed == ["c:/drivers/procmon.sys"] and tool.note == ""
    buttons["Start"].invoke()
    tool.until(lambda: "error 577" in tool.note and offered() == ["Start", "Delete"])
    tool.service.state = DriverState.RUNNING  # another program started it
    tool.until(lambda: offered() == ["Stop"])


def test_enter_in_the_first_moment_of_a_window_allows_nothing(tool: Tool) -> None:
    [process] = tool.start(1)
    question = tool.questions[process]
    question.focus_force()
    tool.root.update()
    question.ignored_until = time.monotonic() + 60  # so that a slow machine does not end the moment
    question.event_generate("<Return>")
    tool.root.update()
    assert tool.gate.verdict_of(process, 0) is None
    assert IGNORE_KEYS_S >= 0.5


def test_on_a_narrow_screen_the_questions_leave_the_buttons_free(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool.root, "winfo_screenwidth", lambda: 1024)
    monkeypatch.setattr(tool.root, "winfo_screenheight", lambda: 768)
    tool.start(4)
    assert tool.hidden() == []
    for group in (tool.view.driver, tool.view.monitoring):
        for button in group.buttons.values():
            middle = button.winfo_rootx() + button.winfo_width() // 2, button.winfo_rooty() + button.winfo_height() // 2
            assert tool.root.winfo_containing(*middle) is button
    assert all(question.winfo_rootx() + question.winfo_width() <= 1024 for question in tool.questions.values())


def test_a_message_does_not_move_the_buttons_under_the_pointer(tool: Tool) -> None:
    tool.root.update()
    buttons = [*tool.view.driver.buttons.values(), *tool.view.monitoring.buttons.values()]
    before = [(button.winfo_rootx(), button.winfo_rooty()) for button in buttons]
    tool.view.say(procmon.DriverNotRunning("the driver is installed, but not started: press Start"))
    tool.root.update()
    assert tool.note
    assert [(button.winfo_rootx(), button.winfo_rooty()) for button in buttons] == before


def test_an_empty_table_says_what_to_do(tool: Tool) -> None:
    tool.root.update()
    invitation = tool.view.invitation
    assert invitation.winfo_ismapped()
    assert "Press Start" in invitation.cget("text")
    tool.start()
    tool.until(lambda: "Waiting for a process" in invitation.cget("text"))
    tool.gate.start("c:/tools/a.exe")
    tool.until(lambda: not invitation.winfo_ismapped())


def test_the_columns_are_as_wide_as_what_is_in_them(tool: Tool) -> None:
    [process] = tool.start(1)
    tool.questions[process].buttons[procmon.BLOCK].invoke()
    tool.until(lambda: tool.rows[0][0] == "blocked")
    font = Font(font=Style(tool.root).lookup("Treeview", "font"))
    [row] = tool.view.table.get_children()
    for column in ("Time", "Verdict", "Pid", "Who"):
        text = str(tool.view.table.set(row, column))
        assert font.measure(text) + 8 <= int(tool.view.table.column(column, "width")), text


def test_without_a_driver_file_there_is_nothing_to_install(tool: Tool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool.window, "driver_file", None)

    def missing() -> None:
        raise procmon.DriverFileMissing("the driver is at none of these places")

    monkeypatch.setattr(procmon, "find_driver", missing)
    tool.until(lambda: "no driver file" in tool.view.driver.state_label.cget("text"))
    assert str(tool.view.driver.buttons["Install"].cget("state")) == "disabled"


def test_the_button_with_the_keyboard_has_a_border(tool: Tool, screen: Screen | None) -> None:
    if screen is None:
        return  # only a virtual screen can be read
    [process] = tool.start(1)
    block = tool.questions[process].buttons[procmon.BLOCK]

    def edge() -> str:
        width, _, rgb = screen.pixels()
        at = 3 * ((block.winfo_rooty() + block.winfo_height() // 2) * width + block.winfo_rootx())
        return f"#{rgb[at : at + 3].hex()}"

    tool.until(lambda: edge() == look.BUTTONS["Block.TButton"][1])
    block.focus_force()
    tool.until(lambda: edge() == look.RED)


def test_the_main_window_does_not_get_too_narrow_for_its_buttons(tool: Tool) -> None:
    needed = max(tool.view.driver.winfo_reqwidth(), tool.view.monitoring.winfo_reqwidth())
    assert tool.root.minsize()[0] > 2 * needed
