"""What window.py is made of: its look, the window that asks about one process, and where such windows stand."""

import time
import tkinter as tk
from collections.abc import Callable
from tkinter import font, ttk

import procmon

PAPER, CARD, LINE, INK, FAINT = "#f1f3f6", "#ffffff", "#dbe1e8", "#1c2630", "#66717f"
GREEN, RED, AMBER, NOTE, EDGE = "#1b7f52", "#b83a30", "#b8770b", "#fdf3e1", "#aab6c4"
DEAF_SECONDS = 0.4
"""For so long after it appeared, or got the keyboard, a question ignores keys: they were meant for another window."""


class Look:
    """Fonts, colours and ttk styles of one display; `px` turns 96-dpi pixels into those of the screen."""

    def __init__(self, root: tk.Tk) -> None:
        self.scale = root.winfo_fpixels("1i") / 96
        known = set(font.families(root))

        def pick(*names: str) -> str:
            return next((name for name in names if name in known), "TkDefaultFont")

        sans = pick("Segoe UI", "Inter", "Noto Sans", "Cantarell", "DejaVu Sans")
        mono = pick("Cascadia Mono", "Consolas", "Noto Sans Mono", "DejaVu Sans Mono")
        font.nametofont("TkDefaultFont", root).configure(family=sans, size=10)
        self.title = font.Font(root, family=sans, size=16, weight="bold")
        self.strong = font.Font(root, family=sans, size=11, weight="bold")
        self.small = font.Font(root, family=sans, size=9)
        self.mono = font.Font(root, family=mono, size=9)
        root.configure(background=PAPER)
        style = ttk.Style(root)
        style.theme_use("clam")
        style.configure(".", background=CARD, foreground=INK, font="TkDefaultFont", bordercolor=LINE)
        style.configure("Paper.TFrame", background=PAPER)
        style.configure("Note.TFrame", background=NOTE)
        style.configure("Card.TFrame", relief="solid", borderwidth=1, lightcolor=CARD, darkcolor=CARD)
        for name, ink, background, face in (
            ("Title", INK, PAPER, self.title), ("Faint", FAINT, PAPER, self.small), ("Group", INK, CARD, self.strong),
            ("Small", FAINT, CARD, self.small), ("Mono", INK, CARD, self.mono), ("Note", INK, NOTE, "TkDefaultFont"),
        ):  # fmt: skip
            style.configure(f"{name}.TLabel", foreground=ink, background=background, font=face)
        for name, ink, fill, over, ink_over in (
            ("", INK, "#e8ecf1", "#d9dfe7", INK), ("Note.", AMBER, NOTE, "#f7e5c4", AMBER),
            ("Allow.", GREEN, "#e0f1e8", GREEN, CARD), ("Block.", RED, "#f9e4e2", RED, CARD),
        ):  # fmt: skip
            edges = dict.fromkeys(("bordercolor", "lightcolor", "darkcolor", "focuscolor"), fill)
            style.configure(f"{name}TButton", foreground=ink, background=fill, relief="flat", anchor="center", **edges)
            style.configure(f"{name}TButton", padding=(self.px(6), self.px(5)))
            fills = [("disabled", "#f4f6f8"), ("active", over)]
            style.map(f"{name}TButton", background=fills, lightcolor=fills, darkcolor=fills, focuscolor=fills)
            style.map(f"{name}TButton", foreground=[("disabled", "#aab2bc"), ("active", ink_over)])
            style.map(f"{name}TButton", bordercolor=[*fills, ("focus", ink)])
        style.configure("Treeview", background=CARD, fieldbackground=CARD, rowheight=self.px(25), borderwidth=0)
        style.layout("Treeview", [("Treeview.treearea", {"sticky": "nswe"})])
        style.map("Treeview", background=[("selected", "#e3eaf4")], foreground=[])
        style.configure("Treeview.Heading", foreground=FAINT, font=self.small, relief="flat")
        style.configure("Treeview.Heading", padding=(self.px(2), self.px(6)))
        style.map("Treeview.Heading", background=[("active", CARD)])
        thumb = ("Vertical.Scrollbar.thumb", {"expand": True, "sticky": "nswe"})  # and no arrows
        trough = ("Vertical.Scrollbar.trough", {"sticky": "ns", "children": [thumb]})
        style.layout("Vertical.TScrollbar", [trough])  # type: ignore[list-item]
        grey = dict.fromkeys(("background", "lightcolor", "darkcolor"), "#dde3ea")
        style.configure("Vertical.TScrollbar", troughcolor=CARD, bordercolor=CARD, gripcount=0, **grey)
        style.configure("Vertical.TScrollbar", width=self.px(9))
        hidden = [("disabled", CARD)]  # when all is in sight
        style.map("Vertical.TScrollbar", background=hidden, lightcolor=hidden, darkcolor=hidden)

    def px(self, pixels: float) -> int:
        """Pixels of this screen for so many at 96 dpi."""
        return round(pixels * self.scale)


class Question(tk.Toplevel):
    """May this process run? Its record, what time it has left, and two buttons. `answer` gets the verdict."""

    def __init__(self, root: tk.Tk, look: Look, process: procmon.ProcessHelper, since: float, parent: str,
                 answer: Callable[[procmon.ProcessHelper, procmon.Verdict], None]) -> None:  # fmt: skip
        super().__init__(root, background=EDGE)
        self.withdraw()  # until it stands in its place
        self.title(f"{process.name or process.pid} waits")
        self.resizable(False, False)
        self.attributes("-topmost", True)
        self.process, self.since, self.deaf_until, self.slot = process, since, 0.0, -1
        px = look.px
        card = ttk.Frame(self, padding=(px(18), 0))
        card.pack(padx=1, pady=1, fill="both", expand=True)
        card.columnconfigure(0, weight=1)

        self.strip = ttk.Frame(card, padding=(0, px(11)))
        self.strip.grid(sticky="ew")
        self.strip.columnconfigure(0, weight=1, minsize=px(250))
        ttk.Label(self.strip, text=shortened(process.name or "(no name)", 26), style="Group.TLabel").grid(sticky="w")
        self.clock = ttk.Label(self.strip, style="Small.TLabel")
        self.clock.grid(sticky="w", pady=(px(2), 0))
        self.buttons = {}
        for column, verdict in enumerate((procmon.ALLOW, procmon.BLOCK), 1):
            word = verdict.value.capitalize()
            button = ttk.Button(self.strip, text=word, style=f"{word}.TButton", width=7)
            button.configure(command=lambda verdict=verdict: answer(process, verdict))  # type: ignore[misc]
            button.grid(row=0, column=column, rowspan=2, padx=(px(8), 0))
            self.buttons[verdict] = button
        self.bar = tk.Canvas(card, height=px(3), background="#eceff3", highlightthickness=0)
        self.bar.grid(sticky="ew")

        facts = ttk.Frame(card, padding=(0, px(10)))
        facts.grid(sticky="ew")
        created = process.created.astimezone().strftime("%H:%M:%S.%f")[:-3] if process.created else "not known"
        for row, (name, value) in enumerate((
            ("Image", process.image_name or "the system gave no name"),
            ("Command line", process.command_line or "not known"),
            ("Process", f"{process.pid}, created {created}"),
            ("Parent", parent),
        )):  # fmt: skip
            ttk.Label(facts, text=name, style="Small.TLabel").grid(row=row, sticky="nw", pady=px(3))
            text = ttk.Label(facts, text=shortened(value, 400), style="Mono.TLabel", wraplength=px(330))
            text.grid(row=row, column=1, sticky="w", pady=px(3))
        facts.columnconfigure(0, minsize=px(100))
        facts.columnconfigure(1, minsize=px(340))
        ttk.Label(card, text="Enter or A allows, Escape or B blocks; closing allows.", style="Small.TLabel").grid(
            sticky="w", pady=(0, px(11))
        )

        def key(event: "tk.Event[tk.Misc]") -> None:
            on_block = event.keysym == "Return" and self.focus_get() is self.buttons[procmon.BLOCK]
            verdict = procmon.BLOCK if on_block or event.keysym in ("Escape", "b", "B") else procmon.ALLOW
            if time.monotonic() >= self.deaf_until:
                answer(process, verdict)

        for name in ("<Return>", "<Escape>", "a", "A", "b", "B"):
            self.bind(name, key)
        self.bind("<FocusIn>", lambda _event: self.be_deaf())
        self.bind("<Button-1>", lambda _event: self.focus_force())  # where no window manager does it
        self.protocol("WM_DELETE_WINDOW", lambda: answer(process, procmon.ALLOW))
        self.be_deaf()

    def be_deaf(self) -> None:
        """Ignore keys for a moment."""
        self.deaf_until = time.monotonic() + DEAF_SECONDS

    def tick(self) -> None:
        """Show how long the process has been held, and how long the gate will go on holding it."""
        held, limit = time.monotonic() - self.since, self.process.hold_left
        left = None if limit is None else max(0.0, limit - held)
        short = left is not None and left < 10
        rest = "no time limit" if left is None else f"{clock(left)} left"
        self.clock.configure(text=f"held {clock(held)}, {rest}", foreground=RED if short else FAINT)
        self.bar.delete("all")
        if left is not None and limit:
            width = int(self.bar.winfo_width() * left / limit)
            self.bar.create_rectangle(0, 0, width, self.bar.winfo_height(), width=0, fill=RED if short else AMBER)


class Cascade:
    """Places for windows of one size, in slanted columns, such that none hides the upper strip of another."""

    def __init__(self, area: tuple[int, int, int, int], window: tuple[int, int], step: tuple[int, int]) -> None:
        (left, top, right, bottom), (width, height), (aside, down) = area, window, step
        rows = max(1, (bottom - top - height) // down + 1)
        aside = max(0, min(aside, (right - left - width) // max(1, rows - 1)))  # one column fits, a steep one at need
        column = width + rows * aside
        columns = max(1, (right - left + aside) // column)
        self.places = [(left + c * column + r * aside, top + r * down) for c in range(columns) for r in range(rows)]
        self.free = list(range(len(self.places)))

    def take(self) -> int:
        """The first free place."""
        self.free.sort()
        return self.free.pop(0)


def clock(value: float) -> str:
    """``0:07``, ``4:00``: minutes and seconds."""
    return f"{int(value) // 60}:{int(value) % 60:02}"


def shortened(text: str, length: int) -> str:
    """The text, its middle left out where it is longer: the ends of a path say most."""
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]}...{text[-half:]}"
