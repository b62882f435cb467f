"""The window of the examples with its simulated scene, for a picture."""

import time
import tkinter as tk
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import _scene
import procmon
import window
from _window.view import View
from examples.screen import Screen
from examples.tool import KEPT, Service
from patience import PATIENCE
from procmon.driver.service import DriverService, DriverState

__all__ = ["save", "scene"]

SETTLED_S = 1.5
"""How long the windows must be unchanged before a picture is taken."""


@contextmanager
def scene(screen: Screen) -> Iterator[View]:
    """Play the scene, answer two of its questions, and wait until the others are unchanged. `DISPLAY` must be set."""
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
    end, answers = time.monotonic() + PATIENCE, {"git.exe": procmon.ALLOW, "mshta.exe": procmon.BLOCK}
    while answers or len(view.table.get_children()) < len(_scene.SCENE) or len(view.questions) < len(view.held):
        assert time.monotonic() < end
        root.update()
        time.sleep(0.01)
        for process in [process for process in view.questions if process.name in answers]:
            made.answer(process, answers.pop(process.name))
    settled = time.monotonic() + SETTLED_S
    while time.monotonic() < settled:
        root.update()
        time.sleep(0.01)
    yield view
    made.close()


def save(screen: Screen, view: View, path: Path) -> None:
    """Write the screen, down to a little below the main window."""
    screen.save(path, view.root.winfo_rooty() + view.root.winfo_height() + 48)
