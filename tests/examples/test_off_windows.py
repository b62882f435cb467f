"""What the examples say where there is no Windows, and the picture in docs/; conftest.py leaves it out on Windows."""

import time
import tkinter as tk
from pathlib import Path
from typing import cast

import pytest

import _scene
import procmon
import window
from _window import look
from examples import samples
from examples.screen import Screen
from examples.tool import KEPT, Service
from procmon.driver.service import DriverService, DriverState

PICTURE = Path(__file__).resolve().parents[2] / "build" / "window.png"
"""The window as this run saw it; docs/window.png is such a picture."""


def test_an_example_on_a_gate_that_is_not_here_says_so() -> None:
    printed = samples.run("block_by_name", "--gate", "driver", status=1)
    assert printed.startswith("UnsupportedPlatform: DriverGate needs ")


@pytest.mark.parametrize(
    ("arguments", "group", "word", "says"),
    [
        (["--simulate"], "driver", "Install", "DriverService needs Windows"),
        (["--run", "cmd", "/c", "build"], "monitoring", "Start", "DebugGate needs the Windows debug API"),
        ([], "monitoring", "Start", "DriverGate needs"),
    ],
)
def test_what_is_not_here_is_told_by_a_click(
    screen: Screen, arguments: list[str], group: str, word: str, says: str
) -> None:
    made = window.make(arguments)
    view = made.view
    KEPT.append(view.root)
    button = getattr(view, group).buttons[word]
    button.invoke()
    end = time.monotonic() + 10
    while not (view.note.winfo_ismapped() and str(button.cget("state")) == "normal") and time.monotonic() < end:
        view.root.update()
    assert says in view.note_text.cget("text")
    assert str(button.cget("state")) == "normal"  # one may try again
    made.close()


def test_the_simulated_scene_looks_as_in_the_documentation(screen: Screen) -> None:
    service = Service()
    service.state = DriverState.RUNNING
    made = window.make(["--simulate"])
    view, root = made.view, made.view.root
    KEPT.append(root)
    made.make_service = lambda: cast(DriverService, service)
    made.show_driver()
    desk = tk.Toplevel(root, background="#5b6b7d")
    desk.overrideredirect(True)
    desk.geometry(f"{desk.winfo_screenwidth()}x{desk.winfo_screenheight()}+0+0")
    desk.update()
    root.lift()
    view.monitoring.buttons["Start"].invoke()
    end, answers = time.monotonic() + 20, {"git.exe": procmon.ALLOW, "mshta.exe": procmon.BLOCK}
    while answers or len(view.table.get_children()) < len(_scene.SCENE) or len(view.questions) < len(view.held):
        assert time.monotonic() < end
        root.update()
        time.sleep(0.01)
        for process in [process for process in view.questions if process.name in answers]:
            made.answer(process, answers.pop(process.name))
    settled = time.monotonic() + 1.5
    while time.monotonic() < settled:
        root.update()
        time.sleep(0.01)
    PICTURE.parent.mkdir(exist_ok=True)
    screen.save(PICTURE, root.winfo_rooty() + root.winfo_height() + 48)
    width, _, rgb = screen.pixels()
    for button in [*(q.buttons[procmon.ALLOW] for q in view.questions.values()), view.monitoring.buttons["Stop"]]:
        tint = look.BUTTONS[button.cget("style") or "TButton"][1]
        at = 3 * ((button.winfo_rooty() + 4) * width + button.winfo_rootx() + 4)
        assert rgb[at : at + 3] == bytes.fromhex(tint[1:]), f"{button} is not to be seen"
    made.close()
