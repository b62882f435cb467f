"""What the examples say where there is no Windows, and the picture in docs/; conftest.py leaves it out on Windows."""

import time
import tkinter as tk
from pathlib import Path
from typing import cast

import _scene
import pytest
import window
from examples import samples
from examples.screen import Screen
from examples.tool import KEPT, Service

import procmon
from procmon.service import DriverService, DriverState

PICTURE = Path(__file__).resolve().parents[2] / "build" / "window.png"
"""The window as this run saw it; docs/window.png is such a picture."""



def test_an_example_on_a_gate_that_is_not_here_says_so() -> None:
    printed = samples.run("block_by_name", "--gate", "driver", status=1)
    assert printed.startswith("UnsupportedPlatform: DriverGate needs ")


@pytest.mark.parametrize(
    ("arguments", "group", "word", "says"),
    [
        (["--simulate"], "driver_buttons", "Install", "DriverService needs Windows"),
        (["--run", "cmd", "/c", "build"], "monitor_buttons", "Start", "DebugGate needs the Windows debug API"),
        ([], "monitor_buttons", "Start", "DriverGate needs"),
    ],
)
def test_what_is_not_here_is_told_by_a_click(
    screen: Screen, arguments: list[str], group: str, word: str, says: str
) -> None:
    made = window.make(arguments)
    KEPT.append(made.root)
    button = getattr(made, group)[word]
    button.invoke()
    end = time.monotonic() + 10
    while not (made.note.winfo_ismapped() and str(button.cget("state")) == "normal") and time.monotonic() < end:
        made.root.update()
    assert says in made.note_text.cget("text")
    assert str(button.cget("state")) == "normal"  # one may try again
    made.close()


def test_the_simulated_scene_looks_as_in_the_documentation(screen: Screen) -> None:
    service = Service()
    service.state = DriverState.RUNNING
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
    screen.save(PICTURE, made.root.winfo_rooty() + made.root.winfo_height() + 48)
    width, _, rgb = screen.pixels()
    tints = [(question.buttons[procmon.ALLOW], "e0f1e8") for question in made.questions.values()]
    for button, tint in [*tints, (made.monitor_buttons["Stop"], "e8ecf1")]:
        at = 3 * ((button.winfo_rooty() + 4) * width + button.winfo_rootx() + 4)
        assert rgb[at : at + 3] == bytes.fromhex(tint), f"{button} is not to be seen"
    made.close()
