"""The look of the window: colours, fonts and ttk styles."""

import ctypes
import sys
import tkinter as tk
from collections.abc import Callable
from tkinter import ttk

PAPER, CARD, LINE, EDGE, INK, FAINT = "#f1f3f6", "#ffffff", "#dbe1e8", "#aab6c4", "#1c2630", "#5d6875"
GREEN, RED, AMBER, SAND, CREAM = "#17714a", "#b1322a", "#8a5a00", "#d99a1c", "#fdf3e1"
BUTTONS = {  # style: ink, fill, fill under the pointer, ink then
    "TButton": (INK, "#e6ebf1", "#d6dde6", INK),
    "Note.TButton": (AMBER, CREAM, "#f7e5c4", AMBER),
    "Allow.TButton": (GREEN, "#d9efe3", GREEN, CARD),
    "Block.TButton": (RED, "#f8dedb", RED, CARD),
}
ROWS = {"held": (AMBER, CREAM), "allowed": (INK, CARD), "blocked": (RED, CARD), "gone": (FAINT, CARD)}
"""Ink and fill of a row, by the state of its process."""


def root() -> tuple[tk.Tk, Callable[[float], int]]:
    """Return a styled main window, and a function from pixels at 96 dpi to pixels of this screen."""
    sans, mono = "sans-serif", "monospace"
    if sys.platform == "win32":
        sans, mono = "Segoe UI", "Consolas"
        ctypes.WinDLL("shcore").SetProcessDpiAwareness(1)  # text stays sharp when magnified; before any window
    window = tk.Tk(className="procmon")
    window.configure(background=PAPER)
    scale = window.winfo_fpixels("1i") / 96

    def px(pixels: float) -> int:
        return round(pixels * scale)

    style = ttk.Style(window)
    style.theme_use("clam")
    style.configure(".", background=CARD, foreground=INK, font=(sans, 10), bordercolor=LINE)
    style.configure("Paper.TFrame", background=PAPER)
    style.configure("Note.TFrame", background=CREAM)
    style.configure("Card.TFrame", relief="solid", borderwidth=1, lightcolor=CARD, darkcolor=CARD)
    for name, ink, fill, font in (
        ("Title", INK, PAPER, (sans, 15, "bold")), ("Name", INK, CARD, (sans, 11, "bold")),
        ("Note", INK, CREAM, (sans, 10)), ("Small", FAINT, CARD, (sans, 9)), ("Fact", INK, CARD, (mono, 9)),
    ):  # fmt: skip
        style.configure(f"{name}.TLabel", foreground=ink, background=fill, font=font)
    faces = ("background", "lightcolor", "darkcolor", "focuscolor", "bordercolor")
    for name, (ink, fill, over, ink_over) in BUTTONS.items():
        fills = [("disabled", "#f4f6f8"), ("active", over)]
        style.configure(
            name, foreground=ink, relief="raised", anchor="center", padding=(px(6), px(5))
        )  # flat has no border
        style.configure(name, **dict.fromkeys(faces, fill))
        style.map(name, None, **dict.fromkeys(faces, fills))
        style.map(name, bordercolor=[*fills, ("focus", ink)])
        style.map(name, foreground=[("disabled", "#a3abb5"), ("active", ink_over)])
    style.configure("Treeview", fieldbackground=CARD, rowheight=px(25), borderwidth=0)
    style.layout("Treeview", [("Treeview.treearea", {"sticky": "nswe"})])  # and no frame
    style.map("Treeview", background=[("selected", "#dfe8f4")], foreground=[])
    style.configure("Treeview.Heading", foreground=FAINT, font=(sans, 9), relief="flat", padding=(px(2), px(6)))
    style.map("Treeview.Heading", background=[("active", CARD)])
    style.configure("TScrollbar", background=LINE, troughcolor=CARD, bordercolor=CARD, arrowcolor=FAINT, gripcount=0)
    style.map(
        "TScrollbar", None, **{part: [("disabled", CARD)] for part in ("arrowcolor", *faces)}
    )  # when all rows are visible
    return window, px
