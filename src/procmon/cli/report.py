"""``procmon-gate report``: audit logs as one page of HTML that needs no network.

The page is ``report.html`` with the decisions as JSON in it. A page of 100,000 decisions must stay small and quick, so
decisions are columns of numbers: each text is once in a table, a time is the difference from the previous decision, and
the common parts of decisions (who decided, by which rule) are in a table of *kinds*. The page itself joins siblings of
one program and draws only the visible rows.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from .. import audit
from ..errors import AuditError, ProcmonError
from ..records import Decision, ProcessHelper, Verdict, VerdictResult
from ..system.identity import can_be_parent
from .policy_writers import refuse_to_overwrite

__all__ = ["Report", "page"]

COMMAND_LINE_CHARACTERS = 400
"""A longer command line is cut in the page; the log keeps it."""

COMMAND_LINES_BYTES = 4 * 2**20
"""Limit of all command lines together. Beyond it the page shows only their processes, and has a note about that."""

_EMPTY = datetime.fromtimestamp(0, UTC)


class Report:
    """The columns of one page; decisions are added in the order of their logs.

    >>> from procmon import Policy, SimulatedGate
    >>> report = Report()
    >>> report.add(Policy.parse('default = "block"').decide(SimulatedGate().start("c:/games/chess.exe")))
    >>> len(report), report.columns["parent"]
    (1, [-1])
    """

    def __init__(self) -> None:
        self.logs: list[str] = []
        self.damaged = 0
        self.columns: dict[str, list[int]] = {
            name: [] for name in ("pid", "ppid", "parent", "image", "kind", "at", "held", "command", "exit", "status")
        }
        """One number for each decision; times in milliseconds, ``held`` in microseconds, -1 where there is none."""
        self.reasons: dict[int, str] = {}
        self._kinds: dict[tuple[str, str, str, bool, str, str], int] = {}
        self._texts: dict[str, int] = {}
        self._commands: list[str] = []
        self._moments: list[datetime] = []
        self._decided: list[datetime] = []  # when the shown decision was made; `_moments` has the first one
        self._rows: dict[tuple[object, ...], int] = {}  # of one log: the row of a process
        self._cut = 0  # command lines
        self._latest: dict[int, tuple[int, ProcessHelper]] = {}  # of one log: row and record of a pid's latest process

    def __len__(self) -> int:
        return len(self._moments)

    def begin_log(self, name: str) -> None:
        """Begin another log, perhaps of another machine: its pids are its own."""
        self.logs.append(name)
        self._rows.clear()
        self._latest.clear()

    def add(self, decision: Decision) -> None:
        """Add a decision. A process has one row: with its last decision that had an effect, if there is one."""
        process = decision.process
        row = self._rows.get(_key(process))
        if row is not None:
            decided, had_effect = self._decided[row], decision.result in _DONE
            # The same decision, with its result, or a later one.
            if decision.at == decided or (decision.at > decided and had_effect):
                self.columns["kind"][row] = self._kind(decision)
                self._decided[row] = decision.at
                self._explain(row, decision)
                return
            if not had_effect:
                return
        row = len(self)
        self._moments.append(decision.at)
        self._decided.append(decision.at)
        command_line = process.command_line or ""
        self._commands.append(command_line[:COMMAND_LINE_CHARACTERS])
        self._cut += len(command_line) > COMMAND_LINE_CHARACTERS
        values = {
            "pid": process.pid,
            "ppid": process.parent_pid,
            "parent": self._parent_row(process),
            "image": self._text(process.image_name),
            "kind": self._kind(decision),
            "held": round(decision.held_for * 1e6),
            "exit": -1,
            "status": -1,
        }
        for name, value in values.items():
            self.columns[name].append(value)
        self._explain(row, decision)
        self._rows[_key(process)] = row
        self._latest[process.pid] = row, process

    def _parent_row(self, process: ProcessHelper) -> int:
        """The row of its parent, which may have exited while the process was held; -1 if it is not in the log."""
        row, parent = self._latest.get(process.parent_pid, (-1, process))
        unsure = parent.exited_at is not None and process.created is None
        return row if can_be_parent(parent, process) and not unsure else -1

    def add_exit(self, process: ProcessHelper) -> None:
        """Add the time and the status of a process's exit."""
        row = self._rows.get(_key(process))
        if row is not None and process.exited_at is not None:
            self.columns["exit"][row] = max(0, _milliseconds(process.exited_at, self._moments[row]))
            self.columns["status"][row] = -1 if process.exit_status is None else process.exit_status
            if self._latest[process.pid][0] == row:
                self._latest[process.pid] = row, process

    def notes(self) -> Iterator[str]:
        """Notes that the reader of the page needs."""
        if self.damaged:
            yield f"{self.damaged:,} damaged lines of the logs are left out."
        if self._cut:
            yield f"{self._cut:,} command lines are cut at {COMMAND_LINE_CHARACTERS} characters."
        if left_out := sum(
            at < 0 < len(line) for at, line in zip(self.columns["command"], self._commands, strict=True)
        ):
            yield f"{left_out:,} command lines, the rarest, are left out to keep the page small."

    def as_json(self) -> str:
        """The data of the page."""
        self._place_command_lines()
        epoch = self._moments[0] if self._moments else _EMPTY
        self.columns["at"] = [
            _milliseconds(moment, before)
            for before, moment in zip([epoch, *self._moments], self._moments, strict=False)
        ]
        kinds = [dict(zip(_KIND, kind, strict=True)) for kind in self._kinds]
        data = {
            "logs": self.logs,
            "notes": list(self.notes()),
            "epoch": _milliseconds(epoch, _EMPTY),
            "texts": list(self._texts),
            "kinds": kinds,
            "reasons": self.reasons,
            "columns": self.columns,
        }
        # "<" would let a process name end the script element; both spellings are the same JSON.
        return json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")

    def _explain(self, row: int, decision: Decision) -> None:
        self.reasons.pop(row, None)  # of an earlier decision
        if decision.reason:
            self.reasons[row] = decision.reason

    def _text(self, text: str) -> int:
        return self._texts.setdefault(text, len(self._texts))

    def _kind(self, decision: Decision) -> int:
        result = "" if decision.result is None or decision.result in _DONE else decision.result.value
        verdict = decision.verdict.value
        kind = (verdict, decision.by.value, decision.who, decision.audited, result, _shown(decision))
        return self._kinds.setdefault(kind, len(self._kinds))

    def _place_command_lines(self) -> None:
        """Put the most common command lines into the table of texts, until their budget is used up."""
        kept: dict[str, int] = {"": -1}
        left = COMMAND_LINES_BYTES
        for command, _ in Counter(self._commands).most_common():
            left -= len(json.dumps(command))
            if left < 0:
                break
            if command:
                kept[command] = self._text(command)
        self.columns["command"] = [kept.get(command, -1) for command in self._commands]


_DONE = (None, VerdictResult.DONE)
_KIND = ("verdict", "by", "who", "audited", "result", "shown")


def _key(process: ProcessHelper) -> tuple[object, ...]:
    """One log can have several starts of Windows: pids and start keys repeat in it, but not with the same time."""
    return (*process.identity, process.created)


def _shown(decision: Decision) -> str:
    """The one of the page's five groups to which a decision belongs."""
    if decision.result not in _DONE:
        return "other"
    if decision.verdict is Verdict.ALLOW:
        return "allow"
    if decision.audited:
        return "would" if decision.verdict is Verdict.BLOCK else "ask"
    return "block" if decision.verdict is Verdict.BLOCK else "other"


def _milliseconds(later: datetime, earlier: datetime) -> int:
    return round((later - earlier).total_seconds() * 1000)


def page(report: Report) -> str:
    """The whole page."""
    template = resources.files(__package__).joinpath("report.html").read_text("utf-8")
    return template.replace("__DATA__", report.as_json(), 1)


def read_logs(paths: Iterable[Path]) -> Report:
    """Read audit logs into a report. Raises: AuditError when one of them does not exist."""
    report = Report()
    for path in paths:
        report.begin_log(path.name)
        reader = audit.read(path, on_exit=report.add_exit)
        for decision in reader:
            report.add(decision)
        report.damaged += len(reader.damaged)
    return report


def write_report(paths: Sequence[Path], output: Path) -> str:
    """Write the page for these logs; return a summary of one line.

    Raises: AuditError without a log, or a decision in one; ProcmonError when the page cannot be written.
    """
    refuse_to_overwrite(output, [], paths)
    report = read_logs(paths)
    if report.damaged and not len(report):
        names = ", ".join(map(str, paths))
        raise AuditError(f"{names}: no line is a decision that procmon can read; give logs of --log in the json format")
    content = page(report).encode("utf-8", "backslashreplace")
    try:
        output.write_bytes(content)
    except OSError as error:
        raise ProcmonError(f"{output}: the report cannot be written: {error.strerror}; give --output FILE") from error
    size = f"{len(content) / 2**20:,.1f} MiB" if len(content) >= 2**20 else f"{len(content) // 2**10} KiB"
    damaged = f"; {report.damaged:,} damaged lines of the logs are left out" if report.damaged else ""
    return f"{output}: {len(report):,} decisions, {size}{damaged}"
