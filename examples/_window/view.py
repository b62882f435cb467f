"""The main window, and the places of the questions. Methods receive records; callbacks receive clicks."""

import queue
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from tkinter import ttk

import procmon
from _window import look
from _window.question import STRIP, Question
from procmon import DriverState

MAX_ROWS = 2000
COLUMNS = {"Time": 78, "Verdict": 66, "Pid": 58, "Image": 400, "Who": 92}
STEPS = {  # the buttons that can work in each state of the driver
    DriverState.NOT_INSTALLED: {"Install"}, DriverState.STOPPED: {"Start", "Delete"}, DriverState.STARTING: {"Stop"},
    DriverState.RUNNING: {"Stop"}, DriverState.STOPPING: {"Stop"},
}  # fmt: skip
INVITATION = "No process yet. Press Start under Monitoring:\neach new process then waits for your answer."
WAITING = "Waiting for a process to start."


class Group(ttk.Frame):
    """A card with a title, a state and a row of buttons."""

    def __init__(self, page: ttk.Frame, px: Callable[[float], int], title: str,
                 actions: Mapping[str, Callable[[], object]]) -> None:  # fmt: skip
        super().__init__(page, style="Card.TFrame", padding=(px(16), px(12)))
        self.columnconfigure(tuple(range(len(actions))), weight=1, uniform="button")
        ttk.Label(self, text=title, style="Name.TLabel").grid(columnspan=2, sticky="w")
        self.state_label = ttk.Label(self, style="Small.TLabel")
        self.state_label.grid(row=0, column=1, columnspan=len(actions) - 1, sticky="e")
        self.buttons = {word: ttk.Button(self, text=word, command=action, width=0) for word, action in actions.items()}
        for column, button in enumerate(self.buttons.values()):
            button.grid(row=1, column=column, sticky="ew", padx=(px(6) if column else 0, 0), pady=(px(10), 0))

    def show(self, text: str, good: bool, offered: Collection[str]) -> None:
        """Show its state, and enable the offered buttons."""
        self.state_label.configure(text=f"\u25cf  {text}", foreground=look.GREEN if good else look.FAINT)
        for word, button in self.buttons.items():
            button.configure(state="normal" if word in offered else "disabled")


class View:
    """The windows. Only the thread that made it may call its methods, except for `later`, which is thread-safe."""

    def __init__(self, driver: Callable[[str], object], start: Callable[[], object], stop: Callable[[], object],
                 answer: Callable[[procmon.ProcessHelper, procmon.Verdict], object], close: Callable[[], object]
                 ) -> None:  # fmt: skip
        self.root, self.px = look.root()
        self.answer = answer
        self.inbox: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self.worker = threading.Thread()
        self.names: dict[int, str] = {}  # of parents
        self.held: dict[procmon.ProcessHelper, float] = {}  # time.monotonic() of its start; oldest first
        self.questions: dict[procmon.ProcessHelper, Question] = {}
        self.corners: list[tuple[int, int]] = []  # the places of questions
        self.root.title("procmon")
        self.root.geometry("+48+48")
        self.root.protocol("WM_DELETE_WINDOW", close)
        self.root.report_callback_exception = lambda _kind, error, _trace: self.say(error)
        self.build(driver, start, stop)
        self.every(0.1, self.tick)

    def build(self, driver: Callable[[str], object], start: Callable[[], object], stop: Callable[[], object]) -> None:
        """Build and lay out the widgets."""
        px = self.px
        page = ttk.Frame(self.root, style="Paper.TFrame", padding=px(22))
        page.pack(fill="both", expand=True)
        page.columnconfigure((0, 1), weight=1, uniform="half")
        page.rowconfigure(3, weight=1)
        title = ttk.Label(page, text="Each new process waits for your decision", style="Title.TLabel")
        title.grid(columnspan=2, sticky="w")

        self.note = ttk.Frame(page, style="Note.TFrame", padding=px(12))
        self.note_text = ttk.Label(self.note, style="Note.TLabel", wraplength=px(560))
        self.note_text.pack(side="left", fill="x", expand=True)
        dismiss = ttk.Button(self.note, text="Dismiss", style="Note.TButton", command=self.note.grid_remove)
        dismiss.pack(side="right", anchor="n")
        self.note.grid(row=2, columnspan=2, sticky="ew", pady=(0, px(14)))  # below the buttons, which stay in place
        self.note.grid_remove()

        words = ("Install", "Start", "Stop", "Delete")
        self.driver = Group(page, px, "Driver", {word: partial(driver, word.lower()) for word in words})
        self.driver.grid(row=1, sticky="ew", padx=(0, px(7)), pady=px(14))
        self.monitoring = Group(page, px, "Monitoring", {
            "Start": start, "Stop": stop,
            "Allow all": partial(self.answer_all, procmon.ALLOW), "Block all": partial(self.answer_all, procmon.BLOCK),
        })  # fmt: skip
        self.monitoring.grid(row=1, column=1, sticky="ew", padx=(px(7), 0))

        card = ttk.Frame(page, style="Card.TFrame", padding=px(6))
        card.grid(row=3, columnspan=2, sticky="nsew")
        self.table = ttk.Treeview(card, columns=list(COLUMNS), show="headings", height=12, selectmode="browse")
        for name, width in COLUMNS.items():
            self.table.heading(name, text=name, anchor="w")
            self.table.column(name, width=px(width), stretch=name == "Image")
        for state, (ink, fill) in look.ROWS.items():
            self.table.tag_configure(state, foreground=ink, background=fill)
        scroll = ttk.Scrollbar(card, command=self.table.yview)
        self.table.configure(yscrollcommand=scroll.set)
        scroll.pack(side="right", fill="y")
        self.table.pack(fill="both", expand=True)
        self.invitation = ttk.Label(card, text=INVITATION, style="Small.TLabel", justify="center")
        self.invitation.place(relx=0.5, rely=0.45, anchor="center")
        self.root.update_idletasks()
        self.root.minsize(self.root.winfo_reqwidth(), px(400))

    # -------------------------------------------------------------------------------------------------- its clock

    def later(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in Tk's thread. Thread-safe."""
        self.inbox.put(partial(function, *arguments))

    def every(self, seconds: float, function: Callable[[], object]) -> None:
        """Call a function now, and then every `seconds`."""
        self.root.after(round(1000 * seconds), self.every, seconds, function)
        function()

    def tick(self) -> None:
        """Run the functions from other threads, open windows while there is room, and update the clocks."""
        while not self.inbox.empty():
            self.inbox.get()()
        self.open_windows()
        for question in self.questions.values():
            question.tick()

    def in_thread(self, job: Callable[[], object]) -> None:
        """Run a long job, such as loading the driver, in a thread; show its exception."""

        def work() -> None:
            try:
                job()
            except Exception as error:
                self.later(self.say, error)

        self.worker = threading.Thread(target=work)
        self.worker.start()

    def close(self) -> None:
        """Close the window and cancel its timers."""
        for timer in self.root.tk.splitlist(self.root.tk.call("after", "info")):
            self.root.after_cancel(timer)
        self.root.destroy()

    # ----------------------------------------------------------------------------------------------- what is shown

    def say(self, error: BaseException) -> None:
        """Show an error; the text of a ProcmonError also says what to do next."""
        ours = isinstance(error, procmon.ProcmonError)
        self.note_text.configure(text=str(error) if ours else f"{type(error).__name__}: {error}")
        self.note.grid()
        if not ours:
            traceback.print_exception(error)

    def show_driver(self, state: DriverState | None, text: str) -> None:
        """Show the state of the driver, and enable the buttons that can work; none without a state."""
        busy = self.worker.is_alive()
        steps = () if busy or state is None else STEPS[state]
        self.driver.show("working ..." if busy else text, state is DriverState.RUNNING, steps)

    def show_monitoring(self, running: bool, counts: procmon.Statistics) -> None:
        """Show the state of the monitor."""
        self.invitation.configure(text=WAITING if running else INVITATION)
        text = f"{len(self.held)} held, {counts.allowed} allowed, {counts.blocked} blocked"
        answers = ("Allow all", "Block all") if self.held else ()
        self.monitoring.show(text, running, ("Stop" if running else "Start", *answers))

    def know(self, processes: Iterable[procmon.ProcessHelper]) -> None:
        """Remember the names of processes, which can be parents of others."""
        self.names |= {process.pid: process.name for process in processes}

    def ask(self, process: procmon.ProcessHelper) -> None:
        """Add a row for a held process now, and a window as soon as there is a place."""
        self.know([process])
        self.held[process] = time.monotonic()
        self.row(process, "held")

    def decided(self, decision: procmon.Decision) -> None:
        """Show the verdict of a process, unless the verdict came too late and had no effect."""
        if decision.result in (None, procmon.VerdictResult.DONE):
            who = "you" if decision.by is procmon.DecidedBy.USER else decision.by.value
            self.row(decision.process, "blocked" if decision.verdict is procmon.BLOCK else "allowed", who)
        self.forget(decision.process)

    def exited(self, process: procmon.ProcessHelper) -> None:
        """Note that a process has ended; a held process then needs no decision any more."""
        row = row_of(process)
        if self.table.exists(row) and self.table.set(row, "Verdict") == "held":
            self.row(process, "gone")
        self.forget(process)

    def row(self, process: procmon.ProcessHelper, state: str, who: str = "") -> None:
        """Add the row of a process at the top, or change it."""
        row = row_of(process)
        if not self.table.exists(row):
            self.invitation.place_forget()
            self.table.insert("", 0, row)
            self.table.set(row, "Time", time.strftime("%H:%M:%S"))
            self.table.delete(*self.table.get_children()[MAX_ROWS:])
        for title, value in (("Verdict", state), ("Pid", process.pid), ("Image", process.image_name), ("Who", who)):
            self.table.set(row, title, str(value))
        self.table.item(row, tags=(state,))

    # ----------------------------------------------------------------------------------------------- the questions

    def open_windows(self) -> None:
        """Open a window for each held process while there are places; a lower window is in front of an upper one."""
        for process in [process for process in self.held if process not in self.questions]:
            if not self.questions:
                self.corners = self.cascade()
            taken = {question.corner for question in self.questions.values()}
            corner = next((corner for corner in self.corners if corner not in taken), None)
            if corner is None:
                return
            parent = f"{process.parent_pid}, {self.names.get(process.parent_pid, 'not known')}"
            question = Question(self.root, self.px, corner, self.held[process], process, parent, self.answer)
            self.questions[process] = question
            for other in sorted(self.questions.values(), key=lambda other: other.corner):
                other.lift()
            if len(self.questions) == 1 and self.root.focus_displayof() is not None:
                question.focus_force()

    def cascade(self) -> list[tuple[int, int]]:
        """Places right of the main window, at which no question hides another question's strip.

        On a narrow screen they are over the main window, below its buttons.
        """
        root, px = self.root, self.px
        title_bar = root.winfo_rooty() - root.winfo_y()  # if a window manager draws one
        step, slant, width, height = title_bar + px(STRIP + 6), px(12), px(490), px(240)
        beside, top = root.winfo_rootx() + root.winfo_width() + px(24), max(0, root.winfo_y())
        if beside + width > root.winfo_screenwidth():
            buttons = self.monitoring
            beside, top = root.winfo_rootx(), buttons.winfo_rooty() + buttons.winfo_height() + px(8)
        rows = max(1, (root.winfo_screenheight() - top - height) // step)
        slant = min(slant, max(0, root.winfo_screenwidth() - beside - width) // rows)
        return [(beside + row * slant, top + row * step) for row in range(rows)]

    def forget(self, process: procmon.ProcessHelper) -> None:
        """Close the window of a process that is not held any more; the next window gets the keyboard."""
        self.held.pop(process, None)
        question = self.questions.pop(process, None)
        if question:
            focus = question.focus_displayof()
            had_keyboard = focus is not None and focus.winfo_toplevel() is question
            question.destroy()
            if had_keyboard and self.questions:
                min(self.questions.values(), key=lambda other: other.since).focus_force()

    def answer_all(self, verdict: procmon.Verdict) -> None:
        """Give all held processes one verdict, even where it comes too late for one of them."""
        for process in self.held:
            self.later(self.answer, process, verdict)


def row_of(process: procmon.ProcessHelper) -> str:
    """Return the key of a process in the table; with the time, because another gate can have the same start keys."""
    return f"{process.identity} {process.created}"
