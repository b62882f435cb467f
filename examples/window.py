"""The article's tool: a window for the driver and the monitoring, and one for each process that waits for a verdict.

    python examples/window.py                      every new process of the machine (driver, administrator)
    python examples/window.py --run cmd /c build   every process of one command (Windows)
    python examples/window.py --simulate           invented processes, on any system

The windows of held processes stand in a cascade in which the strip with the name and the two buttons always shows, so
that each can be answered at once. When no place is left the others wait in the table until one is free; a double click
on a row brings its window up. Enter or A allows, Escape or B blocks; a key in the first moment of a window is ignored,
since it was meant for another one. Closing a window allows: nothing stays held behind a window that is gone. Closing
the main window stops the monitoring, which answers whatever is still held.

Needs tkinter: CPython for Windows has it; on Debian, apt install python3-tk. It looks like docs/window.png. The tests
drive it on X11; it is yet to be tried on Windows itself, for the Python that runs under Wine has no tkinter.
"""

import argparse
import contextlib
import ctypes
import queue
import sys
import threading
import time
import tkinter as tk
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from tkinter import ttk

import _scene
from _window import AMBER, FAINT, GREEN, INK, RED, Cascade, Look, Question

import procmon
from procmon.gates.base import Gate
from procmon.service import DriverService, DriverState, DriverStatus

TICK_MS, POLL_MS = 100, 2000
ROWS = 2000
"""The table forgets the oldest rows beyond these."""
NEXT = {  # what can be done with the driver in which state
    DriverState.NOT_INSTALLED: {"Install"}, DriverState.STOPPED: {"Start", "Delete"}, DriverState.STARTING: {"Stop"},
    DriverState.RUNNING: {"Stop"}, DriverState.STOPPING: {"Stop"},
}  # fmt: skip
COLUMNS = {"Time": 80, "Verdict": 75, "Pid": 60, "Image": 370, "Who": 110}


class Window:
    """The main window. `make_gate` is called whenever the monitoring starts, `make_service` for each driver button."""

    def __init__(self, root: tk.Tk, make_gate: Callable[[], Gate], make_service: Callable[[], DriverService],
                 driver_file: str | None = None) -> None:  # fmt: skip
        self.root, self.make_gate, self.make_service, self.driver_file = root, make_gate, make_service, driver_file
        self.look = Look(root)
        self.monitor: procmon.Monitor | None = None
        self.starting = self.told = False
        self.poll: str | None = None
        self.inbox: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.held: dict[procmon.ProcessHelper, float] = {}  # since when, by time.monotonic; oldest first
        self.questions: dict[procmon.ProcessHelper, Question] = {}
        self.cascade: Cascade | None = None
        self.names: dict[int, str] = {}
        self.build()
        root.protocol("WM_DELETE_WINDOW", self.close)
        self.tell_driver()
        self.show_monitoring()
        self.tick()

    # ------------------------------------------------------------------------------------------------ what is seen

    def build(self) -> None:
        """Put the widgets where they belong."""
        px = self.look.px
        self.root.title("procmon")
        page = ttk.Frame(self.root, style="Paper.TFrame", padding=px(22))
        page.pack(fill="both", expand=True)
        page.columnconfigure((0, 1), weight=1, uniform="half")
        page.rowconfigure(3, weight=1)
        head = ttk.Frame(page, style="Paper.TFrame")
        head.grid(columnspan=2, sticky="ew", pady=(0, px(14)))
        ttk.Label(head, text="Process gate", style="Title.TLabel").pack(anchor="w")
        ttk.Label(head, text="Each new process waits for your word.", style="Faint.TLabel").pack(anchor="w")

        self.note = ttk.Frame(page, style="Note.TFrame", padding=px(12))
        self.note_text = ttk.Label(self.note, style="Note.TLabel", wraplength=px(620))
        self.note_text.pack(side="left", fill="x", expand=True)
        dismiss = ttk.Button(self.note, text="Dismiss", style="Note.TButton", command=self.note.grid_remove)
        dismiss.pack(side="right", anchor="n")
        self.note.grid(row=1, columnspan=2, sticky="ew", pady=(0, px(14)))
        self.note.grid_remove()

        steps = ("Install", "Start", "Stop", "Delete")
        tell = {step: partial(self.tell_driver, step.lower()) for step in steps}
        self.driver_state, self.driver_buttons = self.group(page, 0, "Driver", tell)
        self.monitor_state, self.monitor_buttons = self.group(page, 1, "Monitoring", {
            "Start": self.start, "Stop": self.stop,
            "Allow all": partial(self.answer_all, procmon.ALLOW), "Block all": partial(self.answer_all, procmon.BLOCK),
        })  # fmt: skip

        card = ttk.Frame(page, style="Card.TFrame", padding=px(6))
        card.grid(row=3, columnspan=2, sticky="nsew", pady=(px(14), 0))
        self.table = ttk.Treeview(card, columns=list(COLUMNS), show="headings", height=14, selectmode="browse")
        for title, width in COLUMNS.items():
            self.table.heading(title, text=title, anchor="w")
            self.table.column(title, width=px(width), minwidth=px(50), stretch=title == "Image", anchor="w")
        for tag, colour in (("held", AMBER), ("allowed", GREEN), ("blocked", RED), ("gone", FAINT)):
            self.table.tag_configure(tag, foreground=colour)
        scroll = ttk.Scrollbar(card, command=self.table.yview)
        self.table.configure(yscrollcommand=scroll.set)
        scroll.pack(side="right", fill="y")
        self.table.pack(fill="both", expand=True)
        self.table.bind("<Double-1>", self.bring_up)

    def group(self, page: ttk.Frame, column: int, title: str, actions: Mapping[str, Callable[[], None]]
              ) -> tuple[ttk.Label, dict[str, ttk.Button]]:  # fmt: skip
        """A card with a title, a state and a row of buttons."""
        px = self.look.px
        card = ttk.Frame(page, style="Card.TFrame", padding=(px(16), px(12)))
        card.grid(row=2, column=column, sticky="nsew", padx=(0, px(7)) if column == 0 else (px(7), 0))
        card.columnconfigure(tuple(range(len(actions))), weight=1, uniform="button")
        ttk.Label(card, text=title, style="Group.TLabel").grid(row=0, columnspan=2, sticky="w")
        state = ttk.Label(card, style="Small.TLabel")
        state.grid(row=0, column=1, columnspan=len(actions) - 1, sticky="e")
        buttons = {}
        for index, (word, action) in enumerate(actions.items()):
            buttons[word] = ttk.Button(card, text=word, command=action, width=8)
            buttons[word].grid(row=1, column=index, sticky="ew", padx=(0 if index == 0 else px(6), 0), pady=(px(10), 0))
        return state, buttons

    def say(self, error: Exception) -> None:
        """Show what went wrong and what to do next: the text of a ProcmonError ends in advice."""
        ours = isinstance(error, procmon.ProcmonError)
        self.note_text.configure(text=str(error) if ours else f"{type(error).__name__}: {error}")
        self.note.grid()

    # ---------------------------------------------------------------------------------------------- what is done

    def work(self, job: Callable[[], object], then: Callable[[object], object]) -> None:
        """Do what may take a while in a thread; `then` gets its result, or the exception, in the thread of Tk."""

        def run() -> None:
            try:
                result: object = job()
            except Exception as error:
                result = error
            self.inbox.put(lambda: then(result))

        threading.Thread(target=run, daemon=True).start()

    def tell_driver(self, what: str = "") -> None:
        """Install, start, stop or delete the driver, if anything; then show its state."""
        if what:
            self.driver_state.configure(text="working ...", foreground=AMBER)
            for button in self.driver_buttons.values():
                button.configure(state="disabled")

        def job() -> object:
            service = self.make_service()
            if what == "install":
                service.install(self.driver_file)
            elif what:
                getattr(service, what)()
            return service.status()

        def then(result: object) -> None:
            if what and isinstance(result, Exception):
                self.say(result)
                self.tell_driver()  # whatever was done of it
            else:
                self.show_driver(result)

        self.work(job, then)

    def show_driver(self, status: object) -> None:
        """Show the driver's state, and offer what can be done; where there is no state, a click tells why."""
        state = status.state if isinstance(status, DriverStatus) else None
        for word, button in self.driver_buttons.items():
            button.configure(state="normal" if state is None or word in NEXT[state] else "disabled")
        text = state.value if state else "not available here"
        self.driver_state.configure(text=f"\u25cf  {text}", foreground=GREEN if state is DriverState.RUNNING else FAINT)
        if self.poll:
            self.root.after_cancel(self.poll)
        self.poll = self.root.after(POLL_MS, self.tell_driver) if state else None

    def start(self) -> None:
        """Start the monitoring: a new gate, and a monitor whose one callback defers each process and tells us."""

        def job() -> procmon.Monitor:
            gate = self.make_gate()
            self.names |= {process.pid: process.name for process in gate.snapshot()}
            monitor = procmon.Monitor(gate, audit=self)
            monitor.subscribe(self.ask)
            monitor.on_exit(lambda process: self.inbox.put(lambda: self.exited(process)))
            monitor.start()
            return monitor

        self.starting = True
        self.work(job, self.started)

    def ask(self, process: procmon.ProcessHelper) -> procmon.Verdict:
        """The callback, in the monitor's thread: it must not touch Tk, and it must not wait."""
        since = time.monotonic()
        self.inbox.put(lambda: self.hold(process, since))
        return procmon.DEFER

    def write(self, decision: procmon.Decision) -> None:
        """The monitor decided, on our word or not; it calls this in any of its threads, since we are its audit."""
        self.inbox.put(lambda: self.decided(decision))

    def started(self, monitor: object) -> None:
        """The monitor runs, or the exception is on show that says why not."""
        self.starting = False
        if isinstance(monitor, procmon.Monitor):
            self.monitor, self.told = monitor, False
        elif isinstance(monitor, Exception):
            self.say(monitor)

    def stop(self) -> None:
        """Stop the monitoring; the monitor lets go what is still held."""
        if self.monitor:
            self.work(self.monitor.stop, lambda _result: None)

    def hold(self, process: procmon.ProcessHelper, since: float) -> None:
        """A process waits: a row in the table now, a window as soon as there is a place."""
        self.held[process] = since
        self.names[process.pid] = process.name
        self.row(process, "held", "")

    def answer(self, process: procmon.ProcessHelper, verdict: procmon.Verdict) -> None:
        """What the user decided; the row and the window follow from the monitor's decision."""
        try:
            if self.monitor and process in self.held:
                (self.monitor.allow if verdict is procmon.ALLOW else self.monitor.block)(process)
        except procmon.ProcmonError as error:  # it died, or the gate was faster
            self.say(error)
            self.forget(process)

    def answer_all(self, verdict: procmon.Verdict) -> None:
        """One verdict for all that wait."""
        for process in tuple(self.held):
            self.answer(process, verdict)

    def decided(self, decision: procmon.Decision) -> None:
        """Show a decision in the table; its window has no more to ask."""
        who = "you" if decision.by is procmon.DecidedBy.USER else decision.by.value
        self.row(decision.process, "blocked" if decision.verdict is procmon.BLOCK else "allowed", who)
        self.forget(decision.process)

    def exited(self, process: procmon.ProcessHelper) -> None:
        """A process ended; if it did so while it was held, there is nothing more to decide."""
        if process in self.held:
            self.row(process, "gone", "")
            self.forget(process)

    def forget(self, process: procmon.ProcessHelper) -> None:
        """It is not held any more: its window goes, its place is free, and the next window gets the keyboard."""
        self.held.pop(process, None)
        question = self.questions.pop(process, None)
        if question and self.cascade:
            had_keyboard = str(question.focus_displayof() or "").startswith(str(question))
            self.cascade.free.append(question.slot)
            question.destroy()
            if had_keyboard and self.questions:
                min(self.questions.values(), key=lambda other: other.since).focus_force()

    def open_windows(self) -> None:
        """Windows for those that wait, as long as there are places."""
        for process in [process for process in self.held if process not in self.questions]:
            if self.cascade and not self.cascade.free:
                return
            parent = self.names.get(process.parent_pid)
            parent = f"{process.parent_pid}" + (f", {parent}" if parent else "")
            question = Question(self.root, self.look, process, self.held[process], parent, self.answer)
            question.update_idletasks()
            if not self.questions:
                self.cascade = self.new_cascade(question)
            assert self.cascade
            question.slot = self.cascade.take()
            x, y = self.cascade.places[question.slot]
            question.geometry(f"+{x}+{y}")
            question.deiconify()
            self.questions[process] = question
            for other in sorted(self.questions.values(), key=lambda other: other.slot):
                other.lift()
            if len(self.questions) == 1 and self.root.focus_displayof() is not None:
                question.focus_force()

    def new_cascade(self, question: Question) -> Cascade:
        """The places for windows like this one: right of the main window, or over it where the screen is narrow."""
        px, root = self.look.px, self.root
        width, height = question.winfo_reqwidth(), question.winfo_reqheight()
        _, x, y = root.geometry().split("+")  # where the frame stands that the window manager drew, if there is one
        title_bar = root.winfo_rooty() - int(y)
        right, bottom = root.winfo_screenwidth() - px(24), root.winfo_screenheight() - px(48)
        left = root.winfo_rootx() + root.winfo_width() + px(24)
        if left + width > right:
            left = max(0, int(x) + px(48))
        step = px(22), title_bar + question.strip.winfo_reqheight() + px(6)
        return Cascade((left, max(int(y), 0), right, bottom), (width, height + title_bar + px(24)), step)

    def row(self, process: procmon.ProcessHelper, verdict: str, who: str) -> None:
        """Add the row of a process at the top, or change it."""
        key = "{}:{}".format(*process.identity)
        if not self.table.exists(key):
            self.table.insert("", 0, key)
            for old in self.table.get_children()[ROWS:]:
                self.table.delete(old)
            self.table.set(key, "Time", datetime.now().strftime("%H:%M:%S"))
        for title, value in (("Verdict", verdict), ("Pid", process.pid), ("Image", process.image_name), ("Who", who)):
            self.table.set(key, title, str(value))
        self.table.item(key, tags=(verdict,))

    def bring_up(self, event: "tk.Event[tk.Misc]") -> None:
        """Raise the window of the row under the pointer."""
        key = self.table.identify_row(event.y)
        for process, question in self.questions.items():
            if key == "{}:{}".format(*process.identity):
                question.lift()
                question.focus_force()

    def show_monitoring(self) -> None:
        """Show what the monitor is at."""
        monitor, text = self.monitor, "off"
        running = monitor is not None and monitor.running
        if monitor:
            count = monitor.statistics
            text = f"{len(self.held)} held, {count.allowed} allowed, {count.blocked} blocked"
            if monitor.error and not self.told:
                self.told = True
                self.say(monitor.error)
        self.monitor_state.configure(text=f"\u25cf  {text}", foreground=GREEN if running else FAINT)
        idle = not running and not self.starting
        for word, useful in (("Start", idle), ("Stop", running), ("Allow all", self.held), ("Block all", self.held)):
            self.monitor_buttons[word].configure(state="normal" if useful else "disabled")

    def tick(self) -> None:
        """Take what came from other threads, and let the clocks go on."""
        self.next_tick = self.root.after(TICK_MS, self.tick)
        with contextlib.suppress(queue.Empty):
            while True:
                self.inbox.get_nowait()()
        self.open_windows()
        for question in self.questions.values():
            question.tick()
        self.show_monitoring()

    def close(self) -> None:
        """Stop the monitoring, which lets go what is held, and end."""
        if self.monitor:
            self.monitor.stop()
        for timer in filter(None, (self.next_tick, self.poll)):
            self.root.after_cancel(timer)
        self.root.destroy()


def make(arguments: Sequence[str] | None = None) -> Window:
    """The window for a command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--driver", metavar="FILE", help="what Install installs; else the package looks for it")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--simulate", action="store_true", help="invented processes, on any system")
    which.add_argument("--run", nargs=argparse.REMAINDER, metavar="COMMAND", help="the processes of one command")
    options = parser.parse_args(arguments)
    if sys.platform == "win32":
        ctypes.WinDLL("shcore").SetProcessDpiAwareness(1)  # text stays sharp when magnified; before any window
    make_gate: Callable[[], Gate] = procmon.DriverGate
    if options.simulate:
        make_gate = _scene.play
    elif options.run:
        make_gate = partial(procmon.DebugGate.run, options.run)
    root = tk.Tk(className="procmon")
    root.geometry("+48+48")
    return Window(root, make_gate, DriverService, options.driver)


if __name__ == "__main__":
    make().root.mainloop()
