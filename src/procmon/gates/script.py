"""Scripts for a `SimulatedGate`: what programs do, step by step."""

import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from ..errors import StaleProcess
from ..records import ProcessHelper, Verdict

__all__ = ["Script", "Stage", "Step"]

Step = tuple[str | float, ...]


class Stage(Protocol):
    """The part of a `SimulatedGate` that a script uses."""

    @property
    def watched(self) -> bool: ...
    def start(self, image: str, *, parent_pid: int = 4, command_line: str | None = None) -> ProcessHelper: ...
    def exit(self, process: ProcessHelper | int, status: int = 0) -> None: ...
    def time_out(self, process: ProcessHelper | int) -> None: ...
    def end(self) -> None: ...
    def verdict_of(self, process: ProcessHelper | int, timeout: float = 1.0) -> Verdict | None: ...


class Script:
    """One run of a script."""

    def __init__(self, gate: Stage, patience: float) -> None:
        self.started: list[ProcessHelper] = []
        self._gate = gate
        self._patience = patience
        self._known: dict[str, ProcessHelper | None] = {}  # by image; None: its start was skipped

    def play(self, steps: Iterable[Step]) -> None:
        """Play all steps. Raises: ValueError with the number of an invalid step."""
        for number, step in enumerate(steps, 1):
            try:
                is_step = self._play(step)
            except (TypeError, ValueError) as error:
                raise ValueError(f"step {number}, {step!r}, is invalid: {error}") from error
            if not is_step:
                raise ValueError(
                    f"step {number}, {step!r}, is invalid, or names a process that no step before it started;"
                    " help(procmon.SimulatedGate.play) lists the steps"
                )

    def _play(self, step: Step) -> bool:
        known = self._known
        match step:
            case ("start", str(image)):
                self._start(image, 4, None)
            case ("start", str(image), str(parent)) if parent in known:
                self._start_by(parent, image, None)
            case ("start", str(image), str(parent), str(command_line)) if parent in known:
                self._start_by(parent, image, command_line)
            case ("exit", str(image)) if image in known:
                self._exit(self._running(image), 0)
            case ("exit", str(image), int(status)) if image in known:
                self._exit(self._running(image), status)
            case ("kill", str(image), int(status)) if image in known:
                self._exit(known[image], status)
            case ("time out", str(image)) if image in known:
                if (process := known[image]) is not None:
                    with suppress(StaleProcess, ValueError):  # not held any more
                        self._gate.time_out(process)
            case ("sleep", int(seconds) | float(seconds)):
                time.sleep(seconds)
            case ("end",):
                self._gate.end()
            case _:
                return False
        return True

    def _start(self, image: str, parent_pid: int, command_line: str | None) -> None:
        process = self._gate.start(image, parent_pid=parent_pid, command_line=command_line)
        self._known[image] = process
        self.started.append(process)

    def _start_by(self, parent: str, image: str, command_line: str | None) -> None:
        process = self._running(parent)
        if process is None:
            self._known[image] = None
        else:
            self._start(image, process.pid, command_line)

    def _exit(self, process: ProcessHelper | None, status: int) -> None:
        if process is not None:
            try:
                self._gate.exit(process, status)
            except StaleProcess:
                pass  # it was blocked, or has exited before

    def _running(self, image: str) -> ProcessHelper | None:
        """Return the process of that image once it is released; None if it is not released."""
        process = self._known[image]
        if process is None or not self._gate.watched:
            return process
        return process if self._gate.verdict_of(process, self._patience) is Verdict.ALLOW else None
