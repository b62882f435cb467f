"""The window that asks about one process."""

import time
import tkinter as tk
from collections.abc import Callable
from tkinter import ttk

import procmon
from _window import look

STRIP = 66
"""Height of the strip with the name and the buttons, in pixels at 96 dpi."""
IGNORE_KEYS_S = 0.5
"""Seconds in which a question ignores keys after it appeared or got the focus: they were meant for another window."""


class Question(tk.Toplevel):
    """May this process run? Shows its record, the time left and two buttons. `answer` gets the verdict."""

    def __init__(self, root: tk.Tk, px: Callable[[float], int], corner: tuple[int, int], since: float,
                 process: procmon.ProcessHelper, parent: str,
                 answer: Callable[[procmon.ProcessHelper, procmon.Verdict], object]) -> None:  # fmt: skip
        super().__init__(root, background=look.EDGE)
        self.corner, self.since, self.process = corner, since, process
        self.title(f"{process.name or process.pid} waits")
        self.geometry("+{}+{}".format(*corner))
        self.resizable(False, False)
        self.attributes("-topmost", True)
        card = ttk.Frame(self, padding=(px(18), 0))
        card.pack(padx=1, pady=1)

        strip = ttk.Frame(card, height=px(STRIP))
        strip.pack(fill="x")
        strip.pack_propagate(False)
        self.buttons = {}
        for verdict, style in ((procmon.ALLOW, "Allow.TButton"), (procmon.BLOCK, "Block.TButton")):
            button = ttk.Button(strip, text=verdict.value.capitalize(), style=style, width=7)
            button.configure(command=lambda verdict=verdict: answer(process, verdict))  # type: ignore[misc]
            self.buttons[verdict] = button
        for button in reversed(self.buttons.values()):
            button.pack(side="right", padx=(px(8), 0))
        title = ttk.Label(strip, text=shortened(process.name or "(no name)", 26), style="Name.TLabel")
        title.pack(anchor="sw", expand=True)
        self.clock = ttk.Label(strip, style="Small.TLabel")
        self.clock.pack(anchor="nw", expand=True)
        track = tk.Frame(card, height=px(3), background=look.LINE)
        track.pack(fill="x")
        self.bar = tk.Frame(track)

        facts = ttk.Frame(card, padding=(0, px(10)))
        facts.pack()
        facts.columnconfigure(0, minsize=px(100))
        facts.columnconfigure(1, minsize=px(340))
        created = process.created.astimezone().strftime("%H:%M:%S.%f")[:-3] if process.created else "not known"
        for row, (name, value) in enumerate((
            ("Image", process.image_name or "not known"),
            ("Command line", process.command_line or "not known"),
            ("Process", f"{process.pid}, created {created}"),
            ("Parent", parent),
        )):  # fmt: skip
            ttk.Label(facts, text=name, style="Small.TLabel").grid(row=row, sticky="nw", pady=px(3))
            fact = ttk.Label(facts, text=shortened(value, 250), style="Fact.TLabel", wraplength=px(330))
            fact.grid(row=row, column=1, sticky="w", pady=px(3))
        keys = ttk.Label(card, text="Enter or A allows, Escape or B blocks; closing allows.", style="Small.TLabel")
        keys.pack(anchor="w", pady=(0, px(11)))

        def key(event: "tk.Event[tk.Misc]") -> None:
            on_block = event.keysym == "Return" and self.focus_get() is self.buttons[procmon.BLOCK]
            if time.monotonic() >= self.ignored_until:
                answer(process, procmon.BLOCK if on_block or event.keysym in ("Escape", "b", "B") else procmon.ALLOW)

        for name in ("<Return>", "<Escape>", "a", "A", "b", "B"):
            self.bind(name, key)
        self.bind("<FocusIn>", self.ignore_keys)
        self.bind("<Button-1>", lambda _event: self.focus_force())  # where no window manager does it
        self.protocol("WM_DELETE_WINDOW", lambda: answer(process, procmon.ALLOW))
        self.ignore_keys()

    def ignore_keys(self, _event: object = None) -> None:
        """Ignore keys for a moment."""
        self.ignored_until = time.monotonic() + IGNORE_KEYS_S

    def tick(self) -> None:
        """Show how long the process has been held, and how long the gate will hold it."""
        held, limit = time.monotonic() - self.since, self.process.hold_left
        left = max(0.0, limit - held) if limit else None
        hurry = left is not None and left < 10
        rest = "no time limit" if left is None else f"{clock(left)} left"
        self.clock.configure(text=f"held {clock(held)}, {rest}", foreground=look.RED if hurry else look.FAINT)
        if left is not None and limit:
            self.bar.configure(background=look.RED if hurry else look.SAND)
            self.bar.place(relwidth=left / limit, relheight=1)


def clock(value: float) -> str:
    """``0:07``, ``4:00``: minutes and seconds."""
    return f"{int(value) // 60}:{int(value) % 60:02}"


def shortened(text: str, length: int) -> str:
    """Return the text, without its middle if it is longer: the ends of a path matter most."""
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"
