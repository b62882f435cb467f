"""What costs a look-up: the command line, the user, the hash and the signature of a process.

Each fact is looked up when it is first asked for, and kept. They can all be had of a process that is still held.
"""

import enum
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from io import BufferedReader
from types import MappingProxyType
from typing import TypeVar, cast

from ..errors import StaleProcess
from ..records import ProcessFlags, ProcessHelper
from ..win32 import files, kernel, token, trust
from ..win32 import process as win32_process
from ..win32.codes import ERROR_ACCESS_DENIED, ERROR_INVALID_PARAMETER, code_of
from ..win32.handles import Handle
from .describe import describe
from .listing import lookup

__all__ = ["Integrity", "ProcessDetails", "Signature", "SignatureKind", "SignatureStatus", "inspect"]

_T = TypeVar("_T")


class Integrity(enum.IntEnum):
    """How far Windows trusts a process; comparable. A value between two of these is kept as an int.

    >>> Integrity.LOW < Integrity.HIGH
    True
    """

    UNTRUSTED = 0x0000
    LOW = 0x1000
    """A sandbox: browsers' inner processes."""
    MEDIUM = 0x2000
    """A user's programs."""
    MEDIUM_PLUS = 0x2100
    HIGH = 0x3000
    """Elevated: run as administrator."""
    SYSTEM = 0x4000
    PROTECTED = 0x5000


class SignatureStatus(enum.Enum):
    """What Windows says of a signature, without asking the network.

    >>> import procmon
    >>> procmon.SignatureStatus("tampered")
    <SignatureStatus.TAMPERED: 'tampered'>
    """

    VALID = "valid"
    UNSIGNED = "unsigned"
    TAMPERED = "tampered"
    """The file was changed after it was signed."""
    UNTRUSTED = "untrusted"
    """Signed, by somebody this machine does not trust."""
    EXPIRED = "expired"
    REVOKED = "revoked"
    INVALID = "invalid"
    """Any other fault; see `Signature.code`."""


class SignatureKind(enum.Enum):
    """Where a signature is.

    >>> import procmon
    >>> procmon.Signature(procmon.SignatureStatus.VALID, procmon.SignatureKind.CATALOG)
    <Signature valid, catalog>
    """

    EMBEDDED = "embedded"
    """In the file itself."""
    CATALOG = "catalog"
    """In a catalogue that lists the file, as most of Windows' own programs have it."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Signature:
    """The Authenticode signature of a file.

    >>> Signature(SignatureStatus.VALID, SignatureKind.EMBEDDED, "Example Ltd")
    <Signature valid, embedded, by 'Example Ltd'>
    """

    status: SignatureStatus
    """What Windows says of it."""
    kind: SignatureKind
    """Where it is."""
    subject: str | None = None
    """The signer's simple display name as the certificate has it; only with status VALID is it proved."""
    code: int = 0
    """What WinVerifyTrust answered, unsigned: 0, or 0x800B0100 and its kin."""
    catalog: str | None = None
    """Path of the catalogue."""

    def __repr__(self) -> str:
        words = [self.status.value]
        if self.kind is not SignatureKind.NONE:
            words.append(self.kind.value)
        if self.subject is not None:
            words.append(f"by {self.subject!r}")
        if self.code and self.status is not SignatureStatus.UNSIGNED:
            words.append(f"0x{self.code:08X}")
        return f"<Signature {', '.join(words)}>"


_STATUS = {
    0x00000000: SignatureStatus.VALID,
    0x800B0100: SignatureStatus.UNSIGNED,  # TRUST_E_NOSIGNATURE
    0x800B0003: SignatureStatus.UNSIGNED,  # TRUST_E_SUBJECT_FORM_UNKNOWN: no kind of file that can have one
    0x800B0001: SignatureStatus.UNSIGNED,  # TRUST_E_PROVIDER_UNKNOWN
    0x80096010: SignatureStatus.TAMPERED,  # TRUST_E_BAD_DIGEST
    0x800B0004: SignatureStatus.UNTRUSTED,  # TRUST_E_SUBJECT_NOT_TRUSTED
    0x800B0109: SignatureStatus.UNTRUSTED,  # CERT_E_UNTRUSTEDROOT
    0x800B010A: SignatureStatus.UNTRUSTED,  # CERT_E_CHAINING
    0x800B010D: SignatureStatus.UNTRUSTED,  # CERT_E_UNTRUSTEDTESTROOT
    0x800B0112: SignatureStatus.UNTRUSTED,  # CERT_E_UNTRUSTEDCA
    0x800B0111: SignatureStatus.UNTRUSTED,  # TRUST_E_EXPLICIT_DISTRUST
    0x800B0101: SignatureStatus.EXPIRED,  # CERT_E_EXPIRED
    0x800B010C: SignatureStatus.REVOKED,  # CERT_E_REVOKED
}


def inspect(process: ProcessHelper | int) -> "ProcessDetails":
    """The details of a running (or held) process: of a record, or of the process that has this pid now.

    >>> import os, procmon
    >>> details = procmon.inspect(os.getpid())  # doctest: +WINDOWS
    >>> details.path.endswith(".exe"), len(details.sha256), details.reasons  # doctest: +WINDOWS
    (True, 64, mappingproxy({}))

    Raises: UnsupportedPlatform off Windows; StaleProcess when it has gone, or its pid belongs to another one now.
    """
    record = None if isinstance(process, int) else process
    pid = process if isinstance(process, int) else process.pid
    gone = StaleProcess(f"{process!r} has gone; procmon.processes() lists what runs", process)
    try:
        handle = _open(pid)
    except PermissionError:
        found = lookup(pid)
        if found is None or (record is not None and _is_later(found.created, record)):
            raise gone from None
        return ProcessDetails(record or found, None)
    except OSError as error:
        if code_of(error) == ERROR_INVALID_PARAMETER:
            raise gone from error
        raise
    if win32_process.has_exited(handle):
        raise gone
    if record is None:
        return ProcessDetails(describe(handle, pid, flags=ProcessFlags.RUNNING_BEFORE), handle)
    created = win32_process.datetime_of(win32_process.created_at(handle))
    if record.exited or _is_later(created, record):
        raise StaleProcess(f"{record!r} has gone: pid {pid} belongs to a process created {created}", record)
    return ProcessDetails(record, handle)


def _open(pid: int) -> Handle:
    wanted = kernel.PROCESS_QUERY_LIMITED_INFORMATION
    try:
        return kernel.open_process(pid, wanted | win32_process.PROCESS_VM_READ)
    except PermissionError:
        return kernel.open_process(pid, wanted)


def _is_later(created: datetime | None, record: ProcessHelper) -> bool:
    """Another process, for the record is older than it. A driver may note a creation a little late, but never early."""
    return created is not None and record.created is not None and created > record.created


class ProcessDetails:
    r"""The facts about one process that cost a look-up; made by `procmon.inspect`.

    A fact that cannot be had is None, and `reasons` says why. It keeps the process open, so that all facts are about
    the same one, until it is collected or closed::

        details = procmon.inspect(process)
        if details.signer == "Example Ltd" and details.user == r"DESKTOP\alice":
            return procmon.ALLOW

    Not every process may be looked into, and that is told, too:

    >>> import procmon
    >>> system = procmon.ProcessDetails(procmon.SimulatedGate().start("system", pid=4), None)
    >>> system.sha256 is None
    True
    >>> system.reasons["sha256"]
    'Windows does not tell the path of its executable'
    """

    def __init__(self, process: ProcessHelper, handle: Handle | None) -> None:
        self.process = process
        """The record that was asked about, or that of the pid."""
        self._handle = handle
        self._facts: dict[str, object] = {}
        self._reasons: dict[str, str] = {}
        self._token: Handle | None = None

    def __repr__(self) -> str:
        return f"<ProcessDetails {self.process.pid} {self.process.image_name!r}>"

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why a fact is None: its name and what Windows said, for those that were asked for."""
        return MappingProxyType(self._reasons)

    @property
    def path(self) -> str | None:
        """DOS path of the executable, spelled as on the disk; its native path where it has no drive letter."""
        return self._once("path", self._find_path)

    @property
    def command_line(self) -> str | None:
        """Its command line, whole."""
        return self._once("command_line", self._find_command_line)

    @property
    def user(self) -> str | None:
        r"""On whose behalf it runs: ``DOMAIN\name``."""
        return self._once("user", lambda: token.account_name(token.user_sid(self._open_token())))

    @property
    def user_sid(self) -> str | None:
        """The same as a security identifier: ``S-1-5-18``."""
        return self._once("user_sid", lambda: token.sid_text(token.user_sid(self._open_token())))

    @property
    def session_id(self) -> int | None:
        """Its terminal services session; 0 is that of the services."""
        return self._once("session_id", lambda: token.session_of(self.process.pid))

    @property
    def integrity(self) -> Integrity | int | None:
        """Its integrity level."""
        return self._once("integrity", lambda: _integrity(token.integrity_rid(self._open_token())))

    @property
    def elevated(self) -> bool | None:
        """It has an administrator's full rights."""
        return self._once("elevated", lambda: token.is_elevated(self._open_token()))

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the executable's bytes, in lowercase hex. Computed once for each file, until that is changed."""
        return self._once("sha256", lambda: _of_file(self._need_path(), "sha256", _sha256))

    @property
    def signature(self) -> Signature | None:
        """The executable's Authenticode signature, embedded or by catalogue, checked offline."""
        return self._once("signature", lambda: _of_file(self._need_path(), "signature", _signature))

    @property
    def signer(self) -> str | None:
        """Who signed the executable, if Windows trusts the signature."""
        return self._once("signer", self._find_signer)

    def as_dict(self) -> dict[str, object]:
        """All facts, looked up now, as JSON types; those that cannot be had are None."""
        facts = {name: getattr(self, name) for name in _FACTS}
        signature, integrity = self.signature, self.integrity
        return facts | {
            "integrity": integrity.name.lower() if isinstance(integrity, Integrity) else integrity,
            "signature": signature.status.value if signature is not None else None,
            "pid": self.process.pid,
            "reasons": dict(self._reasons),
        }

    def close(self) -> None:
        """Let go of the process; what was looked up stays. Twice is no error."""
        for handle in (self._token, self._handle):
            if handle is not None:
                handle.close()

    # ------------------------------------------------------------------------------------------------- the look-ups

    def _once(self, name: str, find: Callable[[], _T]) -> _T | None:
        if name not in self._facts:
            try:
                self._facts[name] = find()
            except _NotToBeHad as reason:
                self._facts[name], self._reasons[name] = None, str(reason)
            except (OSError, ValueError) as error:
                self._facts[name], self._reasons[name] = None, self._reason(error)
        return cast(_T | None, self._facts[name])

    def _reason(self, error: Exception) -> str:
        if self._handle is not None and not self._handle.closed and win32_process.has_exited(self._handle):
            return "the process has exited meanwhile"
        if isinstance(error, OSError) and code_of(error) == ERROR_ACCESS_DENIED:
            return "access denied: an elevated Python may see it, unless the process is protected"
        return str(error)

    def _open_process(self) -> Handle:
        if self._handle is None:
            raise _NotToBeHad("access denied: Windows does not let this user open the process; try an elevated Python")
        return self._handle

    def _open_token(self) -> Handle:
        if self._token is None:
            self._token = token.open_token(self._open_process())
        return self._token

    def _find_path(self) -> str:
        if self._handle is not None:
            try:
                return win32_process.image_path(self._handle)
            except OSError:  # a volume without a drive letter, say
                return win32_process.native_image_path(self._handle)
        return self._need_name()

    def _need_name(self) -> str:
        if ProcessFlags.NAME_MISSING in self.process.flags or "\\" not in self.process.image_name:
            raise _NotToBeHad("Windows does not tell the path of its executable")
        return self.process.image_name

    def _need_path(self) -> str:
        if self.path is None:
            raise _NotToBeHad(self._reasons["path"])
        return self.path

    def _find_command_line(self) -> str:
        known = self.process.command_line
        if known is not None and ProcessFlags.COMMAND_LINE_TRUNCATED not in self.process.flags:
            return known
        return win32_process.command_line(self._open_process())

    def _find_signer(self) -> str | None:
        signature = self.signature
        if signature is None:
            raise _NotToBeHad(self._reasons["signature"])
        if signature.status is not SignatureStatus.VALID:
            unsigned = signature.status is SignatureStatus.UNSIGNED
            raise _NotToBeHad("it is not signed" if unsigned else f"its signature is {signature.status.value}")
        return signature.subject


_FACTS = (
    "path", "command_line", "user", "user_sid", "session_id", "integrity", "elevated", "sha256", "signature", "signer"
)  # fmt: skip


class _NotToBeHad(Exception):
    """Why a fact is None, in words of our own."""


def _integrity(rid: int) -> Integrity | int:
    try:
        return Integrity(rid)
    except ValueError:
        return rid


# ------------------------------------------------------------------------------------------------------- of the file


class _FileCache:
    """What was found out about files, by their identity, size and time of change; the oldest finding goes first."""

    LIMIT = 4096

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[object, ...], object] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, file: BufferedReader, what: str, find: Callable[[], _T]) -> _T:
        key = (what, *_identity(file))
        with self._lock:
            if key in self._found:
                return cast(_T, self._found[key])
        found = find()
        if (what, *_identity(file)) == key:  # nobody wrote to it meanwhile
            with self._lock:
                self._found[key] = found
                while len(self._found) > self.LIMIT:
                    self._found.popitem(last=False)
        return found


_cache = _FileCache()


def _identity(file: BufferedReader) -> tuple[int, int, int, int, int]:
    """Volume serial, file index, size, times of writing and of any change."""
    status = os.fstat(file.fileno())
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, files.changed_at(file))


def _of_file(path: str, what: str, find: Callable[[str, BufferedReader], _T]) -> _T:
    with files.open_shared(path) as file:
        return _cache.of(file, what, lambda: find(path, file))


def _sha256(path: str, file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def _signature(path: str, file: BufferedReader) -> Signature:
    handle = files.handle_of(file)
    embedded = trust.verify_embedded(path, handle)
    status = _STATUS.get(embedded.code, SignatureStatus.INVALID)
    if status is not SignatureStatus.UNSIGNED:
        return Signature(status, SignatureKind.EMBEDDED, embedded.subject, embedded.code)
    best = Signature(SignatureStatus.UNSIGNED, SignatureKind.NONE, None, embedded.code)
    file.seek(0)  # Windows hashes the whole file in any case, Wine what comes after
    with closing(trust.verify_by_catalogs(path, handle)) as answers:
        for catalog, answer in answers:
            status = _STATUS.get(answer.code, SignatureStatus.INVALID)
            if status is not SignatureStatus.UNSIGNED:  # as the catalogue itself may be
                best = Signature(status, SignatureKind.CATALOG, answer.subject, answer.code, catalog)
            if status is SignatureStatus.VALID:
                break
    return best
