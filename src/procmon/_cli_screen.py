"""What the command line prints: one line a process, colour on a terminal only, and a question below it all."""

import json
import os
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from typing import TextIO

from ._policy_rules import verdict_word
from .records import DecidedBy, Decision, ProcessHelper, printable
from .win32.console import enable_escape_sequences

__all__ = ["Screen", "decision_line", "exit_line", "question_line"]

COLOURS = {"allow": "32", "block": "31", "would": "33", "ask": "36", "exit": "2", "dim": "2"}


class Screen:
    """One stream that several threads write lines to, with a question that stays below them while it is asked."""

    def __init__(
        self, stream: TextIO, *, json_lines: bool = False, environment: Mapping[str, str] = os.environ
    ) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._question = ""
        self.json_lines = json_lines
        self.show_default = True
        """Say so where no rule decided; of no use where there are no rules."""
        self.broken = False
        """Nobody reads the stream any more."""
        self.terminal = stream.isatty()
        escapes = self.terminal and enable_escape_sequences(1 if stream is sys.stdout else 2)
        self.colours = escapes and not json_lines and not environment.get("NO_COLOR")

    def line(self, text: str) -> None:
        """Print a line, above the question if there is one."""
        with self._lock:
            question, self._question = self._question, ""
            self._write(self._blank(question) + text + "\n" + question)
            self._question = question

    def event(self, kind: str, text: str, data: Mapping[str, object]) -> None:
        """Print what happened: ``text`` for people, or ``data`` as a line of JSON."""
        self.line(json.dumps({"event": kind, **data}, separators=(",", ":")) if self.json_lines else text)

    def note(self, text: str) -> None:
        """Something about the run itself; not among JSON lines."""
        if not self.json_lines:
            self.line(self.colour("dim", text))

    def ask(self, question: str) -> None:
        """Show this question, or "" for none, in place of the one before."""
        with self._lock:
            self._write(self._blank(self._question) + question)
            self._question = question

    def colour(self, name: str, text: str) -> str:
        """The text in a colour, where there are colours."""
        return f"\x1b[{COLOURS[name]}m{text}\x1b[0m" if self.colours else text

    def write(self, decision: Decision, /) -> None:
        """As a sink of `Monitor`: print the decision."""
        self.event("decision", decision_line(decision, self), decision.as_dict())

    def _blank(self, question: str) -> str:
        return f"\r{' ' * len(question)}\r" if question else ""

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            self.broken = True  # the reader of a pipe has gone: the session ends


def decision_line(decision: Decision, screen: Screen) -> str:
    """``10:22:06 block   4711 c:\\games\\chess.exe  chess /hard  [rule no games]``"""
    verdict = verdict_word(decision.verdict)
    colour = verdict
    if decision.audited:
        verdict, colour = f"would {verdict}", "would"
    who = decision.by.value
    if decision.by is DecidedBy.RULE:
        who = f"rule {decision.who}"
    elif decision.by is DecidedBy.USER:
        who = "you"
    elif decision.by is DecidedBy.DEFAULT and not screen.show_default:
        who = ""
    return _line(decision.at, colour, verdict, decision.process, who, screen)


def exit_line(process: ProcessHelper, at: datetime, screen: Screen) -> str:
    """``10:22:09 exit    4711 c:\\games\\chess.exe  [status 0]``"""
    status = process.exit_status
    shown = "" if status is None else f"status {status if status < 0x80000000 else f'0x{status:08X}'}"
    return _line(at, "exit", "exit", process, shown, screen, command_line=False)


def question_line(process: ProcessHelper, at: datetime, rule: str, screen: Screen) -> str:
    """``10:22:09 ask     4711 c:\\games\\chess.exe  chess /hard  [rule games]``"""
    return _line(at, "ask", "ask", process, rule, screen)


def _line(
    at: datetime, colour: str, word: str, process: ProcessHelper, who: str, screen: Screen, command_line: bool = True
) -> str:
    parts = [
        screen.colour("dim", at.astimezone().strftime("%H:%M:%S")),
        screen.colour(colour, f"{word:<5}"),
        f"{process.pid:>6}",
        printable(process.image_name) or "(no name)",
    ]
    if command_line and process.command_line:
        parts.append(screen.colour("dim", " " + printable(process.command_line)))
    if who:
        parts.append(screen.colour("dim", f" [{printable(who)}]"))
    return " ".join(parts)
