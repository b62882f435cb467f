"""The audit log: it keeps every decision as one line of JSON, and can be replayed against another policy.

{"process": {"pid": 4711, "parent_pid": 996, "image_name": "c:\\games\\chess.exe", ...}, "verdict": "block",
 "by": "rule", "who": "no games", "at": "2026-01-31T10:22:06.123456+00:00", "held_for": 0.004, "audited": false, ...}
"""

import json
import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

from .errors import AuditError
from .monitor.monitor import Monitor
from .policy.policy import Policy
from .policy.rules import verdict_word
from .records import DecidedBy, Decision, ProcessHelper, Verdict
from .util.arguments import check_count
from .util.ecs import decision_document, exit_document
from .util.line_file import LineFile, open_all, paths_of
from .util.log import logger
from .util.printable import printable
from .util.recent import Recent
from .util.record_json import decision_json, encode, process_json

__all__ = ["AuditLog", "AuditReader", "Change", "Damage", "Replay", "read", "replay"]

NO_TERMINAL = "no terminal to ask"
"""The reason of a decision by DEFAULT: a rule asks, but the command line has no terminal for the question."""

PATIENCE = 0.1
"""Seconds that `AuditLog.close` waits for a line that another thread is writing."""

AHEAD = 25_000
"""The second line of a decision that was written ahead is expected within at least this number of lines."""


class AuditLog:
    """A file of decisions, one line of JSON each; a sink for `Monitor`.

    When `write` returns, the operating system has the line, so the line survives a crash of this program. With
    ``fsync`` it also survives a crash of the machine, at some milliseconds a line. A file that would outgrow
    ``max_bytes`` (None: no limit) is renamed to ``<path>.1``, the old ``<path>.1`` to ``<path>.2``, and so on up to
    ``keep`` old files. One log has one writer.

    With ``write_ahead`` a `Monitor` writes each line before it sends the verdict (``result`` is null then), so no
    verdict takes effect without its line; each verdict waits for the disk. Where the verdict came too late, a second
    line with its ``result`` follows.

    ``format="ecs"`` writes documents of the Elastic Common Schema for SIEMs. `read` does not read that format.

    >>> import procmon, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> process = procmon.SimulatedGate().start("c:/games/chess.exe")
    >>> with AuditLog(folder.name + "/audit.jsonl") as log:
    ...     log.write(procmon.Policy.parse('default = "block"').decide(process))
    >>> list(procmon.audit.read(log.path))
    [<Decision block 1000 'c:\\\\games\\\\chess.exe' by default>]
    >>> folder.cleanup()

    Raises: AuditError when the file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        max_bytes: int | None = 16 * 2**20,
        keep: int = 5,
        fsync: bool = False,
        write_ahead: bool = False,
        format: Literal["json", "ecs"] = "json",
    ) -> None:
        if format not in ("json", "ecs"):
            raise ValueError(f'format is {format!r}; it is "json" or "ecs"')
        if max_bytes is not None:
            check_count("max_bytes", max_bytes, least=1)
        check_count("keep", keep, least=1)
        self.path = Path(path)
        """The file with the newest lines."""
        self.max_bytes = max_bytes
        self.keep = keep
        self.fsync = fsync
        self.write_ahead = write_ahead
        self.format = format
        self._lock = threading.Lock()
        self._closed = False
        self._file = LineFile(self.path, max_bytes, keep, fsync)

    @property
    def closed(self) -> bool:
        """`close` has been called."""
        return self._closed

    def write(self, decision: Decision, /) -> None:
        """Append one decision.

        Raises: AuditError when the log is closed, or its file cannot be opened again after it was renamed; OSError when
        the disk refuses. After the last two errors the next call tries again.
        """
        self._append([self._line(decision)])

    def write_some(self, decisions: list[Decision], /) -> int:
        """Append the first of these decisions, as many as fit into the file; return how many.

        Raises: as `write`; then no decision is written.
        """
        if type(self).write is not AuditLog.write:  # a subclass expects each decision
            self.write(decisions[0])
            return 1
        return self._append([self._line(decision) for decision in decisions])

    def _line(self, decision: Decision) -> str:
        if not isinstance(decision, Decision):
            raise TypeError(f"write takes a Decision; not {decision!r}; write_exit takes the record of an exit")
        return decision_json(decision) if self.format == "json" else encode(decision_document(decision))

    def write_start(self, monitor: Monitor) -> None:
        """Append a line with ``"event": "start"``: from here on this monitor decides, with these verdicts of failure.

        `read` skips this line. The Elastic Common Schema has no such event, so ``format="ecs"`` writes nothing.

        Raises: as `write`.
        """
        if not isinstance(monitor, Monitor):
            raise TypeError(f"write_start takes the Monitor that decides from here on; not {monitor!r}")
        if self.format == "json":
            failures = {name: verdict.value for name, verdict in monitor.failures.items()}
            at = datetime.now(UTC).isoformat()
            self._append([encode({"event": "start", "at": at, "gate": monitor.gate.name, "failures": failures})])

    def write_exit(self, process: ProcessHelper) -> None:
        """Append the exit of a process, as a line with ``"event": "exit"``, which `read` skips.

        ``"lifetime"`` is `ProcessHelper.lifetime`, in seconds or null.

        Raises: as `write`.
        """
        if not isinstance(process, ProcessHelper):
            raise TypeError(f"write_exit takes the record of an exit; not {process!r}; write takes a Decision")
        if not process.exited:
            raise ValueError(f"write_exit takes the record of an exit, as on_exit gives; {process!r} has not exited")
        at = process.exited_at or datetime.now(UTC)
        if self.format == "json":
            head = f'{{"event":"exit","at":"{at.isoformat()}","lifetime":{json.dumps(process.lifetime)}'
            self._append([f'{head},"process":{process_json(process)}}}'])
        else:
            self._append([encode(exit_document(process, at))])

    def _append(self, lines: list[str]) -> int:
        """Append the first of these lines, as many as the file has room for, and return how many: at least one."""
        with self._lock:
            if self._closed:
                raise AuditError(f"{self.path}: the audit log is closed; make a new AuditLog")
            try:
                return self._file.append([line + "\n" for line in lines])
            finally:
                if self._closed:
                    self._file.close()  # `close` did not wait for this thread

    def close(self) -> None:
        """Close the file. Idempotent. Does not wait for a write that hangs: that write closes the file when it ends."""
        self._closed = True
        if self._lock.acquire(timeout=PATIENCE):
            try:
                self._file.close()
            finally:
                self._lock.release()

    def __enter__(self) -> "AuditLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AuditLog {str(self.path)!r}{' closed' if self.closed else ''}>"


@dataclass(frozen=True, slots=True)
class Damage:
    """A line of an audit log that is no decision; usually the last line of a program that was killed.

    >>> print(Damage(Path("audit.jsonl"), 7, "it ends in the middle"))
    audit.jsonl, line 7: not a whole decision (it ends in the middle), so it is left out
    """

    path: Path
    """The file, which may be an older one."""
    line: int
    """The line's number, from 1."""
    reason: str
    """What is wrong with it."""

    def __str__(self) -> str:
        return printable(f"{self.path}, line {self.line}: not a whole decision ({self.reason}), so it is left out")


class AuditReader(Iterator[Decision]):
    """The decisions of a log and its older files, oldest first; made by `read`.

    >>> import pathlib, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = pathlib.Path(folder.name, "audit.jsonl")
    >>> _ = path.write_text('{"process": {"pid": 8,')
    >>> reader = read(path)
    >>> list(reader), len(reader.damaged)
    ([], 1)
    >>> folder.cleanup()
    """

    def __init__(self, path: Path, on_exit: Callable[[ProcessHelper], object] | None = None) -> None:
        self._path = path
        self._on_exit = on_exit
        self.paths = paths_of(path)
        """The files that existed when reading began, in the order in which they are read."""
        self.damaged: list[Damage] = []
        """Lines left out so far; each is also logged as a warning."""
        self._decisions = self._read()

    def __iter__(self) -> "AuditReader":
        return self

    def __next__(self) -> Decision:
        return next(self._decisions)

    def _read(self) -> Iterator[Decision]:
        with ExitStack() as stack:
            for path, file in open_all(self._path, stack):
                for number, line in enumerate(file, 1):
                    if not line.strip():
                        continue
                    try:
                        found = self._parse(json.loads(line))
                    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                        self._damage(path, number, line, error)
                        continue
                    if isinstance(found, Decision):
                        yield found
                    elif found is not None and self._on_exit is not None:
                        self._on_exit(found)

    def _parse(self, data: dict[str, object]) -> Decision | ProcessHelper | None:
        """The decision of a line, or the process of an exit; None where no caller wants it."""
        event = data.get("event")
        if event == "start" or (event == "exit" and self._on_exit is None):
            return None
        if event == "exit":
            process = data.get("process")
            if not isinstance(process, dict):
                raise ValueError("the process of the exit is missing")
            return ProcessHelper.from_dict(process)
        if "ecs" in data:
            raise ValueError("it is in the Elastic Common Schema; read a log of the format json")
        return Decision.from_dict(data)

    def _damage(self, path: Path, number: int, line: bytes, error: Exception) -> None:
        reason = str(error) if line.endswith(b"\n") else "it ends in the middle"
        self.damaged.append(Damage(path, number, reason))
        logger.warning("%s", self.damaged[-1])


def read(path: str | os.PathLike[str], *, on_exit: Callable[[ProcessHelper], object] | None = None) -> AuditReader:
    """Return the decisions that an `AuditLog` wrote to ``path`` and its older files, oldest first.

    A line that is no decision is left out and reported: see `AuditReader.damaged`. ``on_exit`` is called with the
    record of each exit, when the reader reaches its line.

    >>> import procmon, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with AuditLog(folder.name + "/audit.jsonl") as log:
    ...     log.write(procmon.Policy.parse("").decide(procmon.SimulatedGate().start("c:/tools/a.exe")))
    >>> [decision.process.name for decision in read(log.path)]
    ['a.exe']
    >>> folder.cleanup()

    Raises: AuditError when there is no such file.
    """
    return AuditReader(Path(path), on_exit)


@dataclass(frozen=True, slots=True)
class Change:
    """One decision that another policy would have made differently.

    >>> import procmon
    >>> process = procmon.SimulatedGate().start("c:/games/chess.exe")
    >>> strict = procmon.Policy.parse('[[rule]]\\nimage = "chess.exe"\\nverdict = "block"')
    >>> print(Change(then=procmon.Policy.parse("").decide(process), now=strict.decide(process)))
    allow -> block  c:\\games\\chess.exe by rule 1
    """

    then: Decision
    """The decision in the log."""
    now: Decision
    """The decision of the other policy."""

    def __str__(self) -> str:
        rule = f" by rule {self.now.who}" if self.now.by is DecidedBy.RULE else f" by {self.now.by.value}"
        return printable(f"{_outcome(self.then)} -> {_outcome(self.now)}  {self.then.process.image_name}{rule}")


@dataclass(frozen=True, slots=True)
class Replay:
    """What a policy would have decided about the processes of a log. `str` lists each kind of difference once.

    >>> print(Replay(decisions=2, changes=(), missing={"user": 1}))
    2 decisions: 0 would change, 2 would not
      not in the log: user, which rules ask of 1 processes
    """

    decisions: int
    """Number of decisions in the log."""
    changes: tuple[Change, ...]
    """Decisions that would differ, oldest first."""
    missing: dict[str, int]
    """Facts that rules need and the log does not have (user, hash...), with the number of processes.

    ``user_sid`` and ``user_name``: rules compare it, and the log has only the other one. ``command_line``: the log may
    have only its beginning.
    """
    damaged: tuple[Damage, ...] = ()
    """Lines of the log that could not be read."""

    @property
    def same(self) -> int:
        """Number of decisions that would be the same."""
        return self.decisions - len(self.changes)

    def __str__(self) -> str:
        lines = [f"{self.decisions:,} decisions: {len(self.changes):,} would change, {self.same:,} would not"]
        for text, count in Counter(map(str, self.changes)).most_common():
            lines.append(f"  {count:>5,} x  {text}")
        for fact, count in sorted(self.missing.items()):
            lines.append(f"  not in the log: {fact.replace('_', ' ')}, which rules ask of {count:,} processes")
        return "\n".join([*lines, *(f"  {damage}" for damage in self.damaged)])


def replay(path: str | os.PathLike[str], policy: Policy) -> Replay:
    """Ask ``policy`` about each process of an audit log, in order, and compare its decisions with those of the log.

    The policy sees the records in the log, and the facts that rules looked up then. Nothing is looked up on this
    machine, where these pids belong to other processes by now. Where a person was asked then, and would be asked again,
    the decision counts as the same.

    >>> import procmon, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with AuditLog(folder.name + "/audit.jsonl") as log:
    ...     process = procmon.SimulatedGate().start("c:/games/chess.exe")
    ...     log.write(procmon.Policy.parse('default = "allow"').decide(process))
    >>> print(replay(log.path, procmon.Policy.parse('[[rule]]\\nimage = "**/games/**"\\nverdict = "block"')))
    1 decisions: 1 would change, 0 would not
          1 x  allow -> block  c:\\games\\chess.exe by rule 1
    >>> folder.cleanup()

    Raises: AuditError when there is no such file.
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"policy is a Policy; not {policy!r}; Policy.load(path) makes one of a file")
    reader = read(path)
    changes, missing, count = [], Counter[str](), 0
    logged = SimpleNamespace()
    judge = policy.for_the_past(lambda _: logged)
    for count, then in enumerate(each_once(reader), 1):  # noqa: B007 - the result has the last count
        logged = _logged_details(then)
        now, unknown = judge(then.process, then.at)
        missing.update(unknown)
        was_asked = then.by is DecidedBy.USER or (then.by is DecidedBy.DEFAULT and then.reason == NO_TERMINAL)
        asked_again = now.verdict is Verdict.DEFER and was_asked and not now.audited
        if (now.verdict, now.audited) != (then.verdict, then.audited) and not asked_again:
            changes.append(Change(then, now))
    return Replay(count, tuple(changes), dict(missing), tuple(reader.damaged))


def each_once(decisions: Iterable[Decision]) -> Iterator[Decision]:
    """The decisions in their order. One that was written ahead, and then had no effect, has its result."""
    lines: deque[list[Decision]] = deque()
    ahead = Recent[tuple[tuple[int, int], datetime], list[Decision]](AHEAD)
    for decision in decisions:
        key = decision.process.identity, decision.at
        if decision.result is not None and (first := ahead.get(key, [])):
            first[0] = decision
            continue
        lines.append([decision])
        if decision.result is None:
            ahead[key] = lines[-1]
        if len(lines) > AHEAD:
            yield lines.popleft()[0]
    for [decision] in lines:
        yield decision


def _logged_details(decision: Decision) -> SimpleNamespace:
    """The facts in the log, as attributes like those of a look-up; a list of accounts becomes ``user_sid`` and
    ``user``."""
    facts = dict(decision.facts)
    accounts = facts.pop("user", None)
    for account in accounts if isinstance(accounts, list) else ():
        facts["user_sid" if str(account).startswith("S-1-") else "user"] = account
    return SimpleNamespace(**facts)


def _outcome(decision: Decision) -> str:
    word = verdict_word(decision.verdict)
    return f"{word} (audit)" if decision.audited else word


def __dir__() -> list[str]:
    return __all__
