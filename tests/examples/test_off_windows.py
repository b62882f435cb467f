"""The examples' messages off Windows, and the picture in docs/; conftest.py leaves this file out on Windows."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import procmon
import window
from _window import look
from examples import portrait, samples
from examples.screen import Screen
from examples.tool import KEPT
from patience import PATIENCE

PICTURE = Path(__file__).resolve().parents[2] / "build" / "window.png"
"""A picture of the window in this run; docs/window.png is made the same way."""


def test_an_example_on_a_gate_that_is_not_here_says_so() -> None:
    printed = samples.run("block_by_name", "--gate", "driver", status=1)
    assert printed.startswith("UnsupportedPlatform: DriverGate needs ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--run", "cmd", "/c", "build"], "DebugGate needs the Windows debug API"), ([], "DriverGate needs")],
)
def test_a_gate_that_is_not_here_is_explained_after_a_click(screen: Screen, arguments: list[str], says: str) -> None:
    made = window.make(arguments)
    view = made.view
    KEPT.append(view.root)
    button = view.monitoring.buttons["Start"]
    button.invoke()
    end = time.monotonic() + PATIENCE
    while not (view.note.winfo_ismapped() and str(button.cget("state")) == "normal") and time.monotonic() < end:
        view.root.update()
    assert says in view.note_text.cget("text")
    assert str(button.cget("state")) == "normal"  # one may try again
    made.close()


def test_without_windows_no_button_of_the_driver_can_be_pressed(screen: Screen) -> None:
    made = window.make(["--simulate"])
    view = made.view
    KEPT.append(view.root)
    view.root.update()
    assert [str(button.cget("state")) for button in view.driver.buttons.values()] == ["disabled"] * 4
    assert "needs Windows" in view.driver.state_label.cget("text")
    made.close()


def test_the_window_runs_without_installing(screen: Screen, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, str(samples.EXAMPLES / "window.py"), "--help"]
    ended = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("usage: window.py")


def test_the_simulated_scene_looks_as_in_the_documentation(screen: Screen) -> None:
    with portrait.scene(screen) as view:
        PICTURE.parent.mkdir(exist_ok=True)
        portrait.save(screen, view, PICTURE)
        width, _, rgb = screen.pixels()
        allows = [question.buttons[procmon.ALLOW] for question in view.questions.values()]
        for button in [*allows, view.monitoring.buttons["Stop"], view.monitoring.buttons["Block all"]]:
            tint = look.BUTTONS[button.cget("style") or "TButton"][1]
            at = 3 * ((button.winfo_rooty() + 4) * width + button.winfo_rootx() + 4)
            assert rgb[at : at + 3] == bytes.fromhex(tint[1:]), f"{button} is not visible"
