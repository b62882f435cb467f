"""The output of a running command: lines, in colour on a terminal only, and a question below all lines."""

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TextIO

from ..policy.rules import verdict_word
from ..records import DecidedBy, Decision, ProcessHelper, VerdictResult, status_text
from ..util.printable import printable
from ..win32.console import enable_escape_sequences, is_console
from .text import arguments_of, authority, cut, fit, width, wrap

__all__ = ["Screen", "decision_line", "exit_line", "question_lines"]

COLOURS = {"allow": "32", "block": "31", "would": "33", "ask": "36", "exit": "2", "dim": "2", "question": "1;36"}

LOCK_SLICE_S = 0.1
"""Longest single wait for another thread's line: Ctrl+C does not interrupt a lock on Windows."""

QUESTION_CHARACTERS = 1000
"""Characters of a command line that a question shows."""


class Screen:
    """One stream to which several threads write lines, with a question that stays below them until it is answered."""

    def __init__(
        self, stream: TextIO, *, json_lines: bool = False, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._stream = stream
        self._environment = environment
        self._lock = threading.Lock()
        self._question = ""
        self.json_lines = json_lines
        self.show_default = True
        """Show ``[default]`` where no rule decided; without a policy that has no meaning."""
        self.started_before = 0
        """Number of processes that started before the gate was connected."""
        self.broken = False
        """The reader of the stream has gone."""
        self.ending = False
        """Stop waiting for a thread whose write to the stream hangs."""
        self.stuck = False
        """A thread hangs, and the end of the interpreter would wait for it."""
        self.verdict_columns = 5
        self.terminal = is_console(stream)
        can = self.terminal and not json_lines and environment.get("TERM") != "dumb"
        self._escapes = can and enable_escape_sequences(1 if stream is sys.stdout else 2)
        self.colours = self._escapes and not environment.get("NO_COLOR")

    @property
    def columns(self) -> int | None:
        """The longest line of a terminal (its width less one: some wrap in the last column); None for other streams."""
        if not self.terminal:
            return None
        try:
            columns = int(self._environment.get("COLUMNS", 0)) or os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            columns = 0
        return max(40, columns or 80) - 1

    def line(self, text: str) -> None:
        """Print a line, above the question if there is one."""
        with self._turn() as mine:
            if mine:
                self._write(self._blank() + text + "\n" + self._shown())

    def event(self, kind: str, text: str, data: Mapping[str, object]) -> None:
        """Print an event: ``text`` for people, or ``data`` as a line of JSON."""
        self.line(json.dumps({"event": kind, **data}, separators=(",", ":")) if self.json_lines else text)

    def note(self, text: str) -> None:
        """Print a note about the run itself."""
        text = "\n".join(map(printable, text.split("\n")))
        self.event("note", self.colour("dim", text), {"message": text})

    def ask(self, question: str) -> None:
        """Show this question, or "" for none, in place of the previous one."""
        with self._turn() as mine:
            if mine:
                blank, self._question = self._blank(), question
                self._write(blank + self._shown())

    def colour(self, name: str, text: str) -> str:
        """The text in a colour, where there are colours."""
        return f"\x1b[{COLOURS[name]}m{text}\x1b[0m" if self.colours and text else text

    def write(self, decision: Decision, /) -> None:
        """Print a decision; `Monitor` calls it as a sink."""
        if decision.by is DecidedBy.NO_CONTROLLER:
            self.started_before += 1  # it started before this session, which decided nothing about it
            return
        self.event("decision", decision_line(decision, self), decision.as_dict())

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        """Wait until no other thread writes; False when `ending` is set while another thread's write hangs."""
        while not (mine := self._lock.acquire(timeout=LOCK_SLICE_S)):
            if self.ending:
                self.stuck = True
                break
        try:
            yield mine
        finally:
            if mine:
                self._lock.release()

    def _blank(self) -> str:
        if not self._question:
            return ""
        return "\r\x1b[K" if self._escapes else f"\r{' ' * width(self._question)}\r"

    def _shown(self) -> str:
        return self.colour("question", self._question)

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self.broken = True  # a pipe whose reader has gone; the session decides whether it ends
        except KeyboardInterrupt:
            self.stuck = True  # the interpreter would try at its end to write the rest
            raise


def decision_line(decision: Decision, screen: Screen) -> str:
    """``10:22:06 block   4711 c:\\games\\chess.exe  /hard  [rule no games]``"""
    verdict = verdict_word(decision.verdict)
    colour = verdict
    if decision.audited:
        verdict, colour = f"would {verdict}", "would"
    who = authority(decision)
    if who == DecidedBy.DEFAULT.value and not screen.show_default:
        who = ""
    if decision.result not in (None, VerdictResult.DONE):  # if the gate has decided, its line follows, or is above
        who = f"{who}, not done".lstrip(", ")
    line = _line(decision.at, colour, verdict, decision.process, who, screen)
    message = decision.note.message if decision.note is not None and verdict == "block" else ""
    margin = width(_head(decision.at, colour, verdict, decision.process, screen)[0])
    return "\n".join([line, *_message_lines(message, margin, screen)])


def _message_lines(message: str, margin: int, screen: Screen) -> list[str]:
    """The rule's message to the person at the screen, below the process."""
    if not message:
        return []
    room = screen.columns - margin if screen.columns else None
    return [" " * margin + line for line in wrap(printable(message), room)]


def exit_line(process: ProcessHelper, at: datetime, screen: Screen) -> str:
    """``10:22:09 exit    4711 c:\\games\\chess.exe  [status 0, 2.41 s]``"""
    status, lifetime = process.exit_status, process.lifetime
    shown = [] if status is None else [f"status {status_text(status)}"]
    if lifetime is not None:
        shown.append(f"{lifetime:,.2f} s")
    return _line(at, "exit", "exit", process, ", ".join(shown), screen, command_line=False)


def question_lines(
    process: ProcessHelper, at: datetime, parent: str, who: str, screen: Screen, message: str = ""
) -> str:
    """The lines above a question: the full contents of a process's line, and the process that started it.

    ::

        10:22:09 ask     4711 c:\\games\\chess.exe
                              /hard
                              started by explorer.exe (3120)  [rule games]
    """
    head, styled = _head(at, "ask", "ask", process, screen)
    room = screen.columns - width(head) if screen.columns else None
    image, *more = wrap(_image(process), room)
    arguments = arguments_of(process)
    if len(arguments) > QUESTION_CHARACTERS:
        arguments = f"{arguments[:QUESTION_CHARACTERS]}... and {len(arguments) - QUESTION_CHARACTERS:,} more characters"
    if arguments:
        more += wrap(arguments, room)
    origin, rule = f"started by {parent}", f"[{printable(who)}]" * bool(who)
    together = f"{origin}  {rule}".rstrip()
    fits = room is None or width(together) <= room
    more += [together] if fits else [*wrap(origin, room), *wrap(rule, room)]
    below = [" " * width(head) + screen.colour("dim", line) for line in more]
    return "\n".join([styled + image, *below, *_message_lines(message, width(head), screen)])


def _line(
    at: datetime, colour: str, word: str, process: ProcessHelper, who: str, screen: Screen, command_line: bool = True
) -> str:
    head, styled = _head(at, colour, word, process, screen)
    image, arguments = _image(process), arguments_of(process) if command_line else ""
    who = printable(who)
    if screen.columns:
        room = screen.columns - width(head)
        who = cut(who, room // 3)
        image, arguments = fit(image, arguments, room - (width(who) + 4 if who else 0))
    return styled + image + screen.colour("dim", f"  {arguments}" * bool(arguments) + f"  [{who}]" * bool(who))


def _head(at: datetime, colour: str, word: str, process: ProcessHelper, screen: Screen) -> tuple[str, str]:
    """The beginning of a line, without and with colours. The column of verdicts fits the longest so far."""
    screen.verdict_columns = max(screen.verdict_columns, len(word))
    time, verdict = at.astimezone().strftime("%H:%M:%S"), f"{word:<{screen.verdict_columns}}"
    pid = f"{process.pid:>6} "
    return f"{time} {verdict} {pid}", f"{screen.colour('dim', time)} {screen.colour(colour, verdict)} {pid}"


def _image(process: ProcessHelper) -> str:
    return printable(process.image_name) or "(no name)"
