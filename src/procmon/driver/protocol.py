r"""The bytes between procmon and its driver: the mirror of ``driver/protocol.h``. Pure, imports on every system.

A constant has the header's name in capitals without its ``k`` (``kByRule`` is `BY_RULE`), a struct is a `Layout` of
the header's ``name``; tests/core/test_protocol.py compares every value and every offset with the header.
``encode_...`` makes a request, ``decode_...`` reads a reply. Nothing is trusted: data that does not fit raises a
`ValueError` that names both sizes. A `Record` keeps a value that this version does not know as a number.

    >>> record = Record(pid=44, start_key=7, state=STATE_HELD, image_name="c:\\tools\\a.exe", parent_pid=4)
    >>> Record.unpack(record.pack()) == record
    True
    >>> record.process()
    <ProcessHelper 44 'c:\\tools\\a.exe' parent 4, paused>
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from ..records import STATUS_BLOCKED as STATUS_BLOCKED
from ..records import DecidedBy, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.filetime import from_filetime
from ..util.paths import lowercase
from .layout import Layout, text_at, utf16

# ----------------------------------------------------------------------------------------------------- constants

VERSION_MAJOR = 2
VERSION_MINOR = 0
VERSION = VERSION_MAJOR << 16 | VERSION_MINOR

DEVICE_TYPE = 0x8350
ACCESS_READ = 1
ACCESS_WRITE = 2
ACCESS_BOTH = 3


def request_code(function: int, access: int) -> int:
    """CTL_CODE with METHOD_BUFFERED."""
    return DEVICE_TYPE << 16 | access << 14 | function << 2


INFO = request_code(0x800, ACCESS_READ)
REGISTER = request_code(0x801, ACCESS_BOTH)
FETCH = request_code(0x802, ACCESS_READ)
LIST = request_code(0x803, ACCESS_READ)
ALLOW = request_code(0x804, ACCESS_BOTH)
BLOCK = request_code(0x805, ACCESS_BOTH)
RESET = request_code(0x806, ACCESS_BOTH)
SET_RULES = request_code(0x807, ACCESS_BOTH)
QUIESCE = request_code(0x808, ACCESS_BOTH)
NOTE_CREATED = request_code(0x900, ACCESS_BOTH)
NOTE_IMAGE = request_code(0x901, ACCESS_BOTH)
NOTE_EXITED = request_code(0x902, ACCESS_BOTH)

VERDICT_NONE, VERDICT_ALLOW, VERDICT_BLOCK = range(3)

BY_NONE, BY_CONTROLLER, BY_RULE, BY_TIMEOUT, BY_DISCONNECT, BY_STOP, BY_EXEMPT, BY_LIMIT, BY_NO_CONTROLLER = range(9)
BY_TAMPER, BY_PICO = 9, 10

STATE_NEW, STATE_NAMED, STATE_HELD, STATE_ANSWERED, STATE_RELEASED, STATE_EXITING = range(1, 7)

FLAG_RUNNING_BEFORE = 0x1
FLAG_NAME_MISSING = 0x2
FLAG_NAME_NATIVE = 0x4
FLAG_SEEN = 0x8
FLAG_EXEMPT = 0x10
FLAG_CONTROLLER_DESCENDANT = 0x20
FLAG_COMMAND_LINE_TRUNCATED = 0x40
FLAG_CREATE_MISSED = 0x80
FLAG_NEVER_STARTED = 0x100
FLAG_FOREIGN_THREAD = 0x200
FLAG_PARENT_CLAIMED = 0x400
FLAG_TERMINATE_FAILED = 0x800
FLAG_TAMPERED = 0x1000
FLAG_WRITE_OPEN = 0x2000
FLAG_DELETE_PENDING = 0x4000
FLAG_TRANSACTED = 0x8000
FLAG_NAME_CHANGED = 0x10000
FLAG_PICO = 0x20000

RESULT_DONE, RESULT_UNKNOWN, RESULT_STALE, RESULT_ANSWERED, RESULT_NOT_HELD = range(5)

EXEMPT_DESCENDANTS = 0x1
REPORT_EXITS = 0x2
REGISTER_FLAGS = 0x3

FEATURE_CREATE_EX = 0x1
FEATURE_NOTE_REQUESTS = 0x2
FEATURE_DEBUG_BUILD = 0x4
FEATURE_THREAD_HOLD = 0x8
FEATURE_THREAD_NOTIFY = 0x10
FEATURE_SUBSYSTEMS = 0x20
FEATURE_SIGNATURE_LEVEL = 0x40

STATUS_UNKNOWN = 0x103

NO_TIMEOUT = 0
UNLIMITED = 0xFFFFFFFF
UNKNOWN_LEVEL = 0xFFFFFFFF
MAX_RECORDS = 131072
MAX_TEXT_BYTES = 64 * 1024 * 1024
RESERVE_RECORDS = 256
RESERVE_NAME_UNITS = 1024
MAX_NAME_BYTES = 65534
MAX_COMMAND_LINE_BYTES = 8192
MAX_TARGETS = 4096
MAX_RULES = 65536
MAX_RULES_BYTES = 16 * 1024 * 1024

VERDICTS = {VERDICT_ALLOW: Verdict.ALLOW, VERDICT_BLOCK: Verdict.BLOCK}
_VERDICT_CODES = {verdict: code for code, verdict in VERDICTS.items()}
_DECIDED_BY = {
    BY_CONTROLLER: DecidedBy.CONTROLLER,
    BY_RULE: DecidedBy.GATE_RULE,
    BY_TIMEOUT: DecidedBy.GATE_TIMEOUT,
    BY_DISCONNECT: DecidedBy.DISCONNECT,
    BY_STOP: DecidedBy.STOP,
    BY_EXEMPT: DecidedBy.EXEMPT,
    BY_LIMIT: DecidedBy.LIMIT,
    BY_NO_CONTROLLER: DecidedBy.NO_CONTROLLER,
    BY_TAMPER: DecidedBy.TAMPER,
    BY_PICO: DecidedBy.PICO,
}
_ANSWERS = {
    RESULT_DONE: VerdictResult.DONE,
    RESULT_UNKNOWN: VerdictResult.UNKNOWN,
    RESULT_STALE: VerdictResult.STALE,
    RESULT_ANSWERED: VerdictResult.ANSWERED,
    RESULT_NOT_HELD: VerdictResult.NOT_HELD,
}

# ------------------------------------------------------------------------------------------------------- layouts


REGISTER_REQUEST = Layout(
    "RegisterRequest",
    version="I", flags="I", event="Q", hold_timeout_ms="I", timeout_verdict="I", disconnect_verdict="I",
    limit_verdict="I", tamper_verdict="I", pico_verdict="I",
)  # fmt: skip
LIST_REQUEST = Layout("ListRequest", after_key="Q")
RECORDS_HEADER = Layout("RecordsHeader", count="I", needed_bytes="I", next_key="Q")
RECORD_HEADER = Layout(
    "RecordHeader",
    size="I", pid="I", start_key="Q", created="q", parent_pid="I", creator_pid="I", creator_tid="I", state="I",
    flags="I", verdict="I", decided_by="I", exit_status="I", held_ms="I", hold_left_ms="I", image_name_bytes="I",
    native_name_bytes="I", command_line_bytes="I", creation_name_bytes="I", signature_level="I", reserved="4x",
    exited="q",
)  # fmt: skip
TARGET = Layout("Target", pid="I", reserved="4x", start_key="Q")
RULES_HEADER = Layout("RulesHeader", count="I", reserved="4x")
RULE_HEADER = Layout("RuleHeader", size="I", verdict="I", path_bytes="I", reserved="4x")
RULES_REPLY = Layout("RulesReply", count="I", listed="I")
COUNTERS = Layout(
    "Counters",
    created="Q", exited="Q", held="Q", allowed="Q", blocked="Q", timeouts="Q", disconnects="Q", rule_allowed="Q",
    rule_blocked="Q", exempt="Q", missing_name="Q", image_without_create="Q", exit_without_create="Q", pid_reused="Q",
    allocation_failures="Q", table_full="Q", unknown_verdicts="Q", stale_verdicts="Q", late_verdicts="Q",
    terminate_failures="Q", exits_lost="Q", died_held="Q", limit_allowed="Q", limit_blocked="Q", reserve_used="Q",
    foreign_threads="Q", critical_refused="Q", pico_blocked="Q", reserved="32x",
)  # fmt: skip
INFO_REPLY = Layout(
    "Info",
    size="I", version="I", features="I", controller_pid="I", record_count="I", record_limit="I", held_count="I",
    rule_count="I", memory_bytes="Q", hold_timeout_ms="I", timeout_verdict="I", disconnect_verdict="I",
    limit_verdict="I", tamper_verdict="I", pico_verdict="I", register_flags="I", quiesced="I", text_bytes="I",
    text_limit="I", counters=f"{COUNTERS.size}x",
)  # fmt: skip
NOTE_CREATED_REQUEST = Layout(
    "NoteCreated",
    pid="I", parent_pid="I", creator_pid="I", creator_tid="I", created="q", command_line_bytes="I",
    native_name_bytes="I",
)  # fmt: skip
NOTE_IMAGE_REQUEST = Layout("NoteImage", pid="I", native_name_bytes="I")
NOTE_VERDICT = Layout("NoteVerdict", verdict="I", exit_status="I")
NOTE_EXITED_REQUEST = Layout("NoteExited", pid="I", exit_status="I")

LAYOUTS = {layout.name: layout for layout in list(globals().values()) if isinstance(layout, Layout)}
"""Every struct of the header by its C++ name."""

# ------------------------------------------------------------------------------------------------ padding, verdicts


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def _verdict_code(verdict: Verdict, what: str) -> int:
    if verdict not in _VERDICT_CODES:
        raise ValueError(f"{what} must be ALLOW or BLOCK, not {verdict!r}: the driver cannot defer")
    return _VERDICT_CODES[verdict]


# ------------------------------------------------------------------------------------------------------- records


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One process as the driver writes it, numbers unconverted. `process` converts it to a `ProcessHelper`."""

    pid: int
    start_key: int
    created: int = 0
    parent_pid: int = 0
    creator_pid: int = 0
    creator_tid: int = 0
    state: int = STATE_NEW
    flags: int = 0
    verdict: int = VERDICT_NONE
    decided_by: int = BY_NONE
    exit_status: int = STATUS_UNKNOWN
    held_ms: int = 0
    hold_left_ms: int = 0
    image_name: str = ""
    native_name: str = ""
    command_line: str = ""
    creation_name: str = ""
    """Native name at creation, if it differs from `native_name`."""
    signature_level: int = UNKNOWN_LEVEL
    exited: int = 0

    def pack(self) -> bytes:
        """The record's bytes, as the driver would write them. Raises: ValueError when a value does not fit."""
        texts = [utf16(text) for text in (getattr(self, name) for name in _RECORD_TEXTS)]
        body = _padded(b"".join(texts))
        numbers = {name: getattr(self, name) for name in _RECORD_NUMBERS}
        sizes = dict(zip(_RECORD_TEXT_SIZES, map(len, texts), strict=True))
        return RECORD_HEADER.pack(size=RECORD_HEADER.size + len(body), **numbers, **sizes) + body

    @classmethod
    def unpack(cls, data: bytes, offset: int = 0) -> "Record":
        """The record at `offset`. Raises: ValueError when its sizes do not fit each other or the data."""
        return cls._unpack(data, offset)[0]

    @classmethod
    def _unpack(cls, data: bytes, offset: int) -> "tuple[Record, int]":
        header = RECORD_HEADER.unpack(data, offset)
        size = header.pop("size")
        sizes = [header.pop(name) for name in _RECORD_TEXT_SIZES]
        end = RECORD_HEADER.size + sum(sizes)
        if size != end + -end % 8:
            raise ValueError(f"a record of {size} bytes should have {end + -end % 8} by the sizes of its texts")
        if size > len(data) - offset:
            raise ValueError(f"a record needs {size} bytes, and {len(data) - offset} are there")
        at, texts = offset + RECORD_HEADER.size, []
        for name, length in zip(_RECORD_TEXT_SIZES, sizes, strict=True):
            texts.append(text_at(data, at, length, name.removesuffix("_bytes")))
            at += length
        fields: dict[str, Any] = {**header, **dict(zip(_RECORD_TEXTS, texts, strict=True))}
        return cls(**fields), size

    def process(self) -> ProcessHelper:
        """The record that users see. Values that this version does not know become None; unknown flags are kept."""
        numbers = [getattr(self, name) for name in _RECORD_NUMBERS]
        return _process(*numbers, *(getattr(self, name) for name in _RECORD_TEXTS))


def _process(
    pid: int, start_key: int, created: int, parent_pid: int, creator_pid: int, creator_tid: int, state: int, flags: int,
    verdict: int, decided_by: int, exit_status: int, held_ms: int, hold_left_ms: int, signature_level: int, exited: int,
    image_name: str, native_name: str, command_line: str, creation_name: str,
) -> ProcessHelper:  # fmt: skip
    """A record as users see it, from its numbers (in the order of the header) and its texts."""
    held, is_exit = state == STATE_HELD, state == STATE_EXITING
    return ProcessHelper(
        pid=pid,
        parent_pid=parent_pid,
        image_name=image_name,
        paused=held,
        seen=bool(flags & FLAG_SEEN),
        start_key=start_key,
        created=from_filetime(created),
        creator_pid=creator_pid or None,
        creator_tid=creator_tid or None,
        command_line=command_line or None,
        native_name=native_name or None,
        creation_name=creation_name or None,
        signature_level=signature_level if signature_level != UNKNOWN_LEVEL else None,
        flags=_flags(flags),
        exited=is_exit,
        exited_at=from_filetime(exited),
        exit_status=exit_status if is_exit and exit_status != STATUS_UNKNOWN else None,
        verdict=VERDICTS.get(verdict),
        decided_by=_DECIDED_BY.get(decided_by),
        hold_left=hold_left_ms / 1000 if held and hold_left_ms != UNLIMITED else None,
    )


_flags = lru_cache(maxsize=1024)(ProcessFlags)  # a member of an IntFlag costs more to look up than all other fields

_RECORD_TEXTS = ("image_name", "native_name", "command_line", "creation_name")
_RECORD_TEXT_SIZES = tuple(f"{name}_bytes" for name in _RECORD_TEXTS)
_RECORD_NUMBERS = tuple(name for name in RECORD_HEADER.offsets if name not in ("size", "reserved", *_RECORD_TEXT_SIZES))


@dataclass(frozen=True, slots=True)
class Records:
    """The reply of FETCH and LIST."""

    records: tuple[Record, ...] = ()
    needed_bytes: int = 0
    """Size of the first record that did not fit; 0 = all did."""
    next_key: int = 0
    """LIST: the `after_key` of the next request; 0 = this was the last reply."""


def decode_records(data: bytes) -> Records:
    """Read the reply of FETCH or LIST. Raises: ValueError when it is too short, too long or contradicts itself."""
    header = RECORDS_HEADER.unpack(data)
    at, records = RECORDS_HEADER.size, []
    for _ in range(header["count"]):
        record, size = Record._unpack(data, at)
        records.append(record)
        at += size
    if at != len(data):
        raise ValueError(f"a reply of {len(data)} bytes should have {at} by its {header['count']} records")
    return Records(tuple(records), header["needed_bytes"], header["next_key"])


class Processes(NamedTuple):
    """The reply of FETCH and LIST as users see it; see `Records`."""

    processes: list[ProcessHelper]
    needed_bytes: int
    next_key: int


def decode_processes(data: bytes) -> Processes:
    """`decode_records` and `Record.process` in one step, which makes no `Record` in between.

    Raises: ValueError as `decode_records`.
    """
    header = RECORDS_HEADER.unpack(data)
    at, processes, total, fixed = RECORDS_HEADER.size, [], len(data), RECORD_HEADER.size
    unpack = RECORD_HEADER.unpack_values
    for _ in range(header["count"]):
        size, *numbers, image, native, command, creation, level, exited = unpack(data, at)
        end = fixed + image + native + command + creation
        if size != end + -end % 8 or size > total - at or (image | native | command | creation) % 2:
            decode_records(data)  # raises, with the reason
        ends = (image, image + native, image + native + command, end - fixed)
        values: list[Any] = [*numbers, level, exited, *_split_texts(data, at + fixed, ends)]
        processes.append(_process(*values))
        at += size
    if at != total:
        raise ValueError(f"a reply of {total} bytes should have {at} by its {header['count']} records")
    return Processes(processes, header["needed_bytes"], header["next_key"])


def _split_texts(data: bytes, at: int, ends: tuple[int, int, int, int]) -> tuple[str, str, str, str]:
    """The four adjacent texts from `at` on; `ends` are their ends, in bytes from `at`."""
    first, second, third, last = ends
    whole = data[at : at + last].decode("utf-16-le", "surrogatepass")
    if 2 * len(whole) == last:  # a character for each code unit: one text can be cut into four
        a, b, c = first // 2, second // 2, third // 2
        return whole[:a], whole[a:b], whole[b:c], whole[c:]
    parts = [data[at + begin : at + end] for begin, end in zip((0, *ends), ends, strict=False)]
    image, native, command, creation = (part.decode("utf-16-le", "surrogatepass") for part in parts)
    return image, native, command, creation


def encode_records(reply: Records) -> bytes:
    """The bytes of a reply, as the driver writes them: for tests and simulated drivers."""
    header = RECORDS_HEADER.pack(count=len(reply.records), needed_bytes=reply.needed_bytes, next_key=reply.next_key)
    return header + b"".join(record.pack() for record in reply.records)


# ------------------------------------------------------------------------------------------------------ requests


def encode_register(
    event: int,
    *,
    hold_timeout_ms: int = NO_TIMEOUT,
    on_timeout: Verdict = Verdict.ALLOW,
    on_disconnect: Verdict = Verdict.ALLOW,
    on_limit: Verdict = Verdict.ALLOW,
    on_tamper: Verdict = Verdict.BLOCK,
    on_pico: Verdict = Verdict.ALLOW,
    flags: int = EXEMPT_DESCENDANTS | REPORT_EXITS,
    version: int = VERSION,
) -> bytes:
    """REGISTER: `event` is the value of an event handle. Raises: ValueError for DEFER and for what does not fit."""
    return REGISTER_REQUEST.pack(
        version=version,
        flags=flags,
        event=event,
        hold_timeout_ms=hold_timeout_ms,
        timeout_verdict=_verdict_code(on_timeout, "on_timeout"),
        disconnect_verdict=_verdict_code(on_disconnect, "on_disconnect"),
        limit_verdict=_verdict_code(on_limit, "on_limit"),
        tamper_verdict=_verdict_code(on_tamper, "on_tamper"),
        pico_verdict=_verdict_code(on_pico, "on_pico"),
    )


def encode_list(after_key: int = 0) -> bytes:
    """LIST: from the start, or from the `next_key` of the previous reply."""
    return LIST_REQUEST.pack(after_key=after_key)


def is_target(identity: tuple[int, int]) -> bool:
    """A pid and a start key that fit into their fields."""
    pid, start_key = identity
    return 0 <= pid < 1 << 32 and 0 <= start_key < 1 << 64


def encode_targets(identities: Sequence[tuple[int, int]]) -> bytes:
    """ALLOW and BLOCK: (pid, start key) of each. Raises: ValueError for more than `MAX_TARGETS`."""
    if len(identities) > MAX_TARGETS:
        raise ValueError(f"{len(identities)} processes in one request; the driver takes {MAX_TARGETS}")
    return b"".join(TARGET.pack(pid=pid, start_key=start_key) for pid, start_key in identities)


def decode_answers(data: bytes, count: int) -> list[VerdictResult]:
    """The reply of ALLOW and BLOCK to `count` targets; a result that this version does not know counts as UNKNOWN."""
    if len(data) != 4 * count:
        raise ValueError(f"{count} results need {4 * count} bytes, and {len(data)} are there")
    return [_ANSWERS.get(result, VerdictResult.UNKNOWN) for (result,) in struct.iter_unpack("<I", data)]


def encode_rules(rules: Iterable[tuple[str, Verdict]]) -> bytes:
    """SET_RULES: (exact native or DOS path, ALLOW or BLOCK); the first of two rules for one path wins.

    Raises: ValueError for DEFER, an empty or too long path, or more rules than the driver takes.
    """
    packed = []
    for number, (path, verdict) in enumerate(rules, 1):
        name = utf16(lowercase(path))
        if not 0 < len(name) <= MAX_NAME_BYTES:
            raise ValueError(f"rule {number}: a path has 1 to {MAX_NAME_BYTES // 2} characters, not {len(name) // 2}")
        body = _padded(name)
        code = _verdict_code(verdict, f"rule {number} ({path!r})")
        packed.append(RULE_HEADER.pack(size=RULE_HEADER.size + len(body), verdict=code, path_bytes=len(name)) + body)
    if len(packed) > MAX_RULES:
        raise ValueError(f"{len(packed)} rules; the driver takes {MAX_RULES}: keep the rest in a procmon.Policy")
    data = RULES_HEADER.pack(count=len(packed)) + b"".join(packed)
    if len(data) > MAX_RULES_BYTES:
        raise ValueError(f"the rules need {len(data)} bytes; the driver takes {MAX_RULES_BYTES}")
    return data


def decode_rules(data: bytes) -> list[int]:
    """The reply of SET_RULES: indices of the rules that can never act. Raises: ValueError for other sizes."""
    listed = RULES_REPLY.unpack(data)["listed"]
    expected = RULES_REPLY.size + 4 * listed
    if len(data) != expected:
        raise ValueError(f"a reply with {listed} rules has {expected} bytes, and {len(data)} are there")
    return [index for (index,) in struct.iter_unpack("<I", data[RULES_REPLY.size :])]


def decode_version(data: bytes) -> int:
    """The version in a reply of INFO, which is at the same offset in every version."""
    if len(data) < 8:
        raise ValueError(f"the reply of INFO has at least 8 bytes, and {len(data)} are there")
    return int.from_bytes(data[4:8], "little")


def version_text(version: int) -> str:
    """``2.0`` for 0x20000."""
    return f"{version >> 16}.{version & 0xFFFF}"
