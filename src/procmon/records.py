"""The records of procmon: a process, and the decision about it.

All records are immutable, have a repr of one line, and become plain dictionaries for JSON with ``as_dict``. Two records
of one process are equal. The module imports on every operating system.
"""

import enum
import math
import ntpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache

__all__ = [
    "STATUS_BLOCKED", "DecidedBy", "Decision", "ProcessFlags", "ProcessHelper", "RuleNote", "Verdict", "VerdictResult",
]  # fmt: skip

STATUS_BLOCKED = 0xC0000364
"""Exit status of a blocked process: STATUS_ACCESS_DISABLED_BY_POLICY_OTHER. The driver's protocol.h has it as well."""

TYPE_CHECKING = False  # type checkers know the name; importing `typing` takes a tenth of the time of `import procmon`
if TYPE_CHECKING:
    from typing import TypeVar

    T = TypeVar("T")
    E = TypeVar("E", bound=enum.Enum)


class _ShortEnum(enum.Enum):
    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}>"


class Verdict(_ShortEnum):
    """What happens to a held process.

    >>> import procmon
    >>> procmon.ALLOW
    <Verdict.ALLOW>
    """

    ALLOW = "allow"
    """The process runs."""
    BLOCK = "block"
    """The process never runs an instruction; its exit status is 0xC0000364."""
    DEFER = "defer"
    """The process stays held until `Monitor.allow` or `Monitor.block`."""


class DecidedBy(_ShortEnum):
    """Who gave a verdict.

    >>> import procmon
    >>> with procmon.Monitor(procmon.SimulatedGate()) as monitor:
    ...     process = monitor.gate.start("a.exe")
    >>> monitor.history[-1].by in (procmon.DecidedBy.DEFAULT, procmon.DecidedBy.STOP)
    True
    """

    CALLBACK = "callback"
    """A subscribed callback returned the verdict."""
    RULE = "rule"
    """A rule of a policy matched."""
    DEFAULT = "default"
    """No callback had an opinion."""
    ERROR = "error"
    """A callback raised, or returned an invalid value: the monitor's ``on_error``."""
    DEADLINE = "deadline"
    """A callback outlasted the monitor's ``deadline``: its ``on_deadline``."""
    USER = "user"
    """`Monitor.allow` or `Monitor.block` was called for the process."""
    CONTROLLER = "controller"
    """The gate's own ``allow`` or ``block`` was called for the process, not those of a monitor. For its own verdicts a
    monitor reports one of the other members."""
    GATE_RULE = "gate rule"
    """A rule that was given to the driver matched."""
    GATE_TIMEOUT = "gate timeout"
    """The gate's own hold timeout passed."""
    DISCONNECT = "disconnect"
    """The controller disconnected while the process was held."""
    STOP = "stop"
    """The monitor, the gate or the driver was stopped, or an iteration cut off, while the process was held."""
    EXEMPT = "exempt"
    """The gate never holds this process."""
    LIMIT = "limit"
    """The gate's process table was full."""
    NO_CONTROLLER = "no controller"
    """The process started while no controller was registered."""
    TAMPER = "tamper"
    """Another process created a thread in this one before it ran, or changed its memory: the gate's ``on_tamper``."""
    PICO = "pico"
    """A process of WSL 1, which cannot be held: the gate's ``on_pico``."""


class VerdictResult(_ShortEnum):
    """What a gate did with a verdict.

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> process = gate.start("a.exe")
    >>> gate.allow(process), gate.block(process)
    ([<VerdictResult.DONE>], [<VerdictResult.ANSWERED>])
    """

    DONE = "done"
    """The process was held; now it runs or ends."""
    UNKNOWN = "unknown"
    """The gate knows no process with that pid."""
    STALE = "stale"
    """The pid belongs to another process now."""
    ANSWERED = "answered"
    """The process already had its verdict."""
    NOT_HELD = "not held"
    """The process runs, and was never held."""
    TAMPERED = "tampered"
    """The process was held and is blocked, not allowed: the check before its release found code that differs from its
    file."""


class ProcessFlags(enum.IntFlag):
    """Facts about a record. The values are those of ``driver/protocol.h``; unknown bits are kept.

    >>> import procmon
    >>> [explorer] = procmon.SimulatedGate().running_before("c:/windows/explorer.exe")
    >>> procmon.ProcessFlags.RUNNING_BEFORE in explorer.flags
    True
    """

    RUNNING_BEFORE = 0x1
    """The process was running before the gate was opened."""
    NAME_MISSING = 0x2
    """The system gave no image name."""
    NAME_NATIVE = 0x4
    """No drive letter is known for its volume: ``image_name`` is the native name."""
    SEEN = 0x8
    """An earlier fetch has returned the process (see `ProcessHelper.seen`)."""
    EXEMPT = 0x10
    """The gate never holds it: a critical or protected process, or the controller itself."""
    CONTROLLER_DESCENDANT = 0x20
    """Started by the controller, directly or not."""
    COMMAND_LINE_TRUNCATED = 0x40
    """``command_line`` was cut at 4,096 characters."""
    CREATE_MISSED = 0x80
    """The driver saw its image, but not its creation."""
    NEVER_STARTED = 0x100
    """The driver refused the creation, by a rule or at a limit: the process never existed."""
    FOREIGN_THREAD = 0x200
    """Another process created a thread in it before it ran."""
    PARENT_CLAIMED = 0x400
    """Its parent is not its creator: the creator chose another parent, as Windows does at an elevation."""
    TERMINATE_FAILED = 0x800
    """It was blocked and could not be terminated yet: it stays held, and the driver tries again every second."""
    TAMPERED = 0x1000
    """The check before its release found code in its memory that differs from its file, or could not read it."""
    WRITE_OPEN = 0x2000
    """Its file was open for writing when the process was created, so the file can differ from the code that runs."""
    DELETE_PENDING = 0x4000
    """Its file was pending deletion when the process was created."""
    TRANSACTED = 0x8000
    """Its file was opened in a transaction, which can roll back the writes to it."""
    NAME_CHANGED = 0x10000
    """Its file was renamed between creation and first run; see `ProcessHelper.creation_name`."""
    PICO = 0x20000
    """A process of WSL 1: it has no image and cannot be held."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ProcessHelper:
    r"""One process, as a gate saw it at one moment. Equal and hashed by identity: pid and start key.

    >>> import procmon
    >>> gate = procmon.SimulatedGate()
    >>> gate.start(r"C:\Tools\A.exe", parent_pid=4)
    <ProcessHelper 1000 'c:\\tools\\a.exe' parent 4, paused>
    """

    pid: int
    """Process identifier. Windows reuses it after the process has gone."""
    parent_pid: int
    """Identifier of the parent, which may have gone."""
    image_name: str
    """DOS path of the executable, lowercase; the native path where no drive letter is known; "" where there is none."""
    paused: bool = False
    """Held by the gate, waiting for a verdict."""
    seen: bool = False
    """The marker: an earlier fetch has returned this process. One that was returned as running, and is held now, is not
    marked: that is a new question."""
    start_key: int = 0
    """An ascending number from the gate. With `pid` it is the identity, which survives the reuse of a pid."""
    created: datetime | None = None
    """When it was created, aware, UTC; None where not known."""
    creator_pid: int | None = None
    """The process that created it, which need not be the parent; None where not known."""
    creator_tid: int | None = None
    """The thread that created it; None where not known."""
    command_line: str | None = None
    """Its command line; None where the gate needs a look-up for it, which `procmon.inspect` does."""
    native_name: str | None = None
    r"""Native path, ``\Device\HarddiskVolume2\...``, as the system gave it; None where the gate has none."""
    creation_name: str | None = None
    """Native path at its creation, where it differs from `native_name`; otherwise None."""
    signature_level: int | None = None
    """The kernel's signing level (``SE_SIGNING_LEVEL_...``, 0 = unchecked); None where the gate does not know it."""
    flags: ProcessFlags = ProcessFlags(0)
    """Further facts."""
    exited: bool = False
    """The process has exited. A gate that reports exits returns the record once more, with this set."""
    exit_status: int | None = None
    """Its exit status (unsigned 32 bits); None while it runs or when it is not known."""
    exited_at: datetime | None = None
    """When it exited, aware, UTC; None while it runs or where the gate does not know the time."""
    verdict: Verdict | None = None
    """The verdict the gate has for it; None while there is none."""
    decided_by: DecidedBy | None = None
    """Who gave that verdict, as far as the gate knows: CONTROLLER for its controller; a monitor is more exact."""
    hold_left: float | None = None
    """Seconds until the gate's own hold timeout, at the time of this record; None = no limit, or not held."""

    def __post_init__(self) -> None:
        if type(self.pid) is not int or type(self.parent_pid) is not int or not isinstance(self.image_name, str):
            wrong = {"pid": self.pid, "parent_pid": self.parent_pid, "image_name": self.image_name}
            raise TypeError(f"pid and parent_pid are whole numbers, image_name is a text; not {wrong}")

    @property
    def identity(self) -> tuple[int, int]:
        """``(pid, start_key)``: equal in all records of one process, and different for any two processes."""
        return (self.pid, self.start_key)

    @property
    def name(self) -> str:
        """The last part of `image_name`: ``notepad.exe``."""
        return ntpath.basename(self.image_name)

    @property
    def lifetime(self) -> float | None:
        """Seconds from its creation to its exit; None while it runs or where one of the two times is not known."""
        if self.created is None or self.exited_at is None:
            return None
        return max(0.0, (self.exited_at - self.created).total_seconds())

    def __eq__(self, other: object) -> bool:
        return self.identity == other.identity if isinstance(other, ProcessHelper) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.identity)

    def __repr__(self) -> str:
        parts = [f"<ProcessHelper {self.pid} {self.image_name!r} parent {self.parent_pid}"]
        if self.paused:
            parts.append("paused")
        if self.exited:
            parts.append("exited" if self.exit_status is None else f"exited with {status_text(self.exit_status)}")
        if self.seen:
            parts.append("seen")
        if ProcessFlags.RUNNING_BEFORE in self.flags:
            parts.append("running before")
        if self.verdict is not None:
            parts.append(self.verdict.value + (f" by {self.decided_by.value}" if self.decided_by else ""))
        return ", ".join(parts) + ">"

    def as_dict(self) -> dict[str, object]:
        """The fields as JSON types; `from_dict` is the inverse."""
        return {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "ProcessHelper":
        """The record that `as_dict` described. Unknown keys are ignored.

        >>> from procmon import ProcessHelper
        >>> ProcessHelper.from_dict({"pid": 8, "parent_pid": 4, "image_name": "a.exe"})
        <ProcessHelper 8 'a.exe' parent 4>

        Raises: ValueError that names the missing or wrong field.
        """
        return cls(
            pid=_required(data, "pid", int),
            parent_pid=_required(data, "parent_pid", int),
            image_name=_required(data, "image_name", str),
            paused=_optional(data, "paused", bool) or False,
            seen=_optional(data, "seen", bool) or False,
            start_key=_optional(data, "start_key", int) or 0,
            created=_moment(data, "created"),
            creator_pid=_optional(data, "creator_pid", int),
            creator_tid=_optional(data, "creator_tid", int),
            command_line=_optional(data, "command_line", str),
            native_name=_optional(data, "native_name", str),
            creation_name=_optional(data, "creation_name", str),
            signature_level=_optional(data, "signature_level", int),
            flags=_flags(data.get("flags")),
            exited=_optional(data, "exited", bool) or False,
            exit_status=_optional(data, "exit_status", int),
            exited_at=_moment(data, "exited_at"),
            verdict=_member(data, "verdict", Verdict),
            decided_by=_member(data, "decided_by", DecidedBy),
            hold_left=_seconds(data, "hold_left"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleNote:
    """The parts of a policy's rule besides its conditions and its verdict.

    >>> import procmon
    >>> policy = procmon.Policy.parse('[[rule]]\\nimage = "a.exe"\\nverdict = "block"\\nmessage = "Use b instead."')
    >>> policy.decide(procmon.SimulatedGate().start("c:/tools/a.exe")).note.message
    'Use b instead.'
    """

    message: str = ""
    """Shown where the rule blocks or asks."""
    reference: str = ""
    """Where the rule comes from, or what it is about."""
    tags: tuple[str, ...] = ()
    """Words for finding its decisions."""
    log: bool = True
    """False: its decisions are not written to audit logs and other sinks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """A verdict, with its history: who decided, by which rule, after how long.

    >>> import procmon
    >>> policy = procmon.Policy.parse('[[rule]]\\nimage = "**/a.exe"\\nverdict = "block"')
    >>> policy.decide(procmon.SimulatedGate().start("c:/tools/a.exe"))
    <Decision block 1000 'c:\\\\tools\\\\a.exe' by rule 1>
    """

    process: ProcessHelper
    """Its record. Where the gate carried out the verdict, the record has it and is not paused; otherwise the record is
    the one from before."""
    verdict: Verdict
    """The decided verdict; `audited` and `result` show whether it was carried out."""
    by: DecidedBy
    """The kind of authority that decided."""
    who: str = ""
    """The callback's or the rule's name; "" where there is neither."""
    at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it was decided, aware, UTC."""
    held_for: float = 0.0
    """Seconds from fetching the process to the answer."""
    audited: bool = False
    """Audit mode: the process was allowed; `verdict` is what enforcement would have done."""
    result: VerdictResult | None = None
    """What the gate did with the verdict; None where it was not sent, or not yet."""
    reason: str = ""
    """For ERROR: what the callback raised, ``ValueError: ...``; for DEFAULT: why no person was asked; otherwise ""."""
    note: RuleNote | None = None
    """The note of the rule that decided; None where it has none, or no rule decided."""
    policy: str = ""
    """The version of the policy that decided (see `Policy.version`); "" where none did."""
    facts: Mapping[str, object] = field(default_factory=dict, hash=False)
    """The facts that the policy looked up, by their keys in policies. Facts that it could not look up, and those of the
    record itself, are left out."""

    def __repr__(self) -> str:
        who = " ".join(["", *self.who.split()])  # a rule's name may have line breaks
        audit = " (audit: let pass)" if self.audited else ""
        why = "not done" if self.result is VerdictResult.TAMPERED else "came too late"
        late = f" ({why}: {self.result.value})" if self.result not in (None, VerdictResult.DONE) else ""
        what = f"{self.verdict.value} {self.process.pid} {self.process.image_name!r}"
        return f"<Decision {what} by {self.by.value}{who}{audit}{late}>"

    def as_dict(self) -> dict[str, object]:
        """The fields as JSON types, including those of `note`; `from_dict` is the inverse."""
        names = [name for name in self.__dataclass_fields__ if name not in ("note", "facts")]
        data = {name: _plain(getattr(self, name)) for name in names}
        data["facts"] = dict(self.facts)
        if self.note is not None:
            data |= {"message": self.note.message, "reference": self.note.reference, "tags": list(self.note.tags)}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "Decision":
        """The decision that `as_dict` described. Unknown keys are ignored.

        Raises: ValueError that names the missing or wrong field.
        """
        verdict, by, at = _member(data, "verdict", Verdict), _member(data, "by", DecidedBy), _moment(data, "at")
        if verdict is None or by is None or at is None:
            raise ValueError("verdict, by or at is missing: a decision needs all three")
        return cls(
            process=ProcessHelper.from_dict(_required(data, "process", dict)),
            verdict=verdict,
            by=by,
            who=_optional(data, "who", str) or "",
            at=at,
            held_for=_seconds(data, "held_for") or 0.0,
            audited=_optional(data, "audited", bool) or False,
            result=_member(data, "result", VerdictResult),
            reason=_optional(data, "reason", str) or "",
            note=_note(data),
            policy=_optional(data, "policy", str) or "",
            facts=_optional(data, "facts", dict) or {},
        )


def status_text(status: int) -> str:
    """An exit status as text: decimal when it is small, hexadecimal when it is an NTSTATUS.

    >>> status_text(1), status_text(0xC0000364)
    ('1', '0xC0000364')
    """
    return str(status) if status < 0x10000 else f"0x{status:08X}"


def _optional(data: Mapping[str, object], key: str, kind: "type[T]") -> "T | None":
    if not isinstance(data, Mapping):
        raise ValueError(f"{data!r} is no record: it should be a mapping of fields, such as as_dict() returns")
    if (value := data.get(key)) is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} is {value!r}, which is no {kind.__name__}")
    return value


def _required(data: Mapping[str, object], key: str, kind: "type[T]") -> "T":
    if (value := _optional(data, key, kind)) is None:
        raise ValueError(f"{key} is missing: give it, as {kind.__name__}")
    return value


def _member(data: Mapping[str, object], key: str, kind: "type[E]") -> "E | None":
    if (value := _optional(data, key, str)) is None:
        return None
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(repr(member.value) for member in kind)
        raise ValueError(f"{key} is {value!r}; it can be {known}") from None


def _moment(data: Mapping[str, object], key: str) -> datetime | None:
    text = _optional(data, key, str)
    try:
        moment = None if text is None else datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{key} is {text!r}, which is no time like 2026-01-31T23:59:00+00:00") from None
    if moment is None:
        return None
    if moment.tzinfo is None:
        raise ValueError(f"{key} is {text!r}, which has no time zone: end it in +00:00 for UTC")
    if moment.tzinfo is not UTC:
        try:
            moment.astimezone(UTC)
        except OverflowError:
            raise ValueError(f"{key} is {text!r}, which is outside the years 1 to 9999 in UTC") from None
    return moment


def _note(data: Mapping[str, object]) -> RuleNote | None:
    tags = _optional(data, "tags", list) or []
    if not all(isinstance(tag, str) for tag in tags):
        raise ValueError(f"tags is {tags!r}, which is no list of texts")
    message, reference = (_optional(data, key, str) or "" for key in ("message", "reference"))
    note = RuleNote(message=message, reference=reference, tags=tuple(tags))
    return note if note != RuleNote() else None


def _seconds(data: Mapping[str, object], key: str) -> float | None:
    kind: type[float] = int if isinstance(data.get(key), int) else float  # JSON writers may leave the .0 out
    value = _optional(data, key, kind)
    if value is not None and not -_MOST_SECONDS < value < _MOST_SECONDS:
        raise ValueError(f"{key} is {value!r}, which is no number of seconds")
    return value


_MOST_SECONDS = 1e12
"""More than the 9,999 years of datetime."""


@lru_cache(maxsize=1024)
def flag_names(flags: ProcessFlags) -> tuple[str, ...]:
    """The names of the flags that are set, lowercase, as policies and logs write them; unknown bits as one number.

    >>> flag_names(ProcessFlags.EXEMPT | ProcessFlags.SEEN | 0x80000000)
    ('seen', 'exempt', '0x80000000')
    """
    names = [str(flag.name).lower() for flag in ProcessFlags if flag in flags]
    unknown = int(flags) & ~sum(ProcessFlags)
    return (*names, *([hex(unknown)] if unknown else ()))


def _flags(value: object) -> ProcessFlags:
    """Flags from a list of names, or from a number, as older logs have it."""
    if type(value) is int or value is None:
        return ProcessFlags(value or 0)
    if not isinstance(value, list | tuple):
        raise ValueError(f"flags is {value!r}; it is a list of names, such as running_before")
    flags = ProcessFlags(0)
    for text in map(str, value):
        flag = ProcessFlags.__members__.get(text.upper())
        if flag is None and not re.fullmatch("0x[0-9a-f]+", text):
            known = ", ".join(str(flag.name).lower() for flag in ProcessFlags)
            raise ValueError(f"flags has {text!r}; it can have {known}")
        flags |= ProcessFlags(int(text, 16)) if flag is None else flag
    return flags


def _plain(value: object) -> object:
    if value is None or type(value) in (str, int, bool):  # most are
        return value
    if isinstance(value, ProcessHelper):
        return value.as_dict()
    if isinstance(value, ProcessFlags):
        return list(flag_names(value))
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no infinity; None is a time without a limit
    return value
