"""Facts of a process that need a look-up: command line, user, hashes, version, signature and others.

Each fact is looked up at its first use, and kept. All are available while the process is held.
"""

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TypeVar, cast

from ..errors import StaleProcess
from ..records import ProcessFlags, ProcessHelper
from ..util.arguments import check_process_or_pid
from ..util.filetime import from_filetime
from ..win32 import kernel, token
from ..win32 import process as win32_process
from ..win32.codes import ERROR_ACCESS_DENIED, ERROR_INVALID_PARAMETER, code_of
from ..win32.handles import Handle
from . import file_facts
from .describe import describe
from .identity import can_be_parent, started_after
from .listing import lookup
from .pe import VersionInfo
from .signature import Signature, SignatureStatus

__all__ = ["Integrity", "ProcessDetails", "inspect"]

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


def inspect(process: ProcessHelper | int) -> "ProcessDetails":
    """Return the details of a running (or held) process, given its record or its pid.

    >>> import os, procmon
    >>> details = procmon.inspect(os.getpid())  # doctest: +WINDOWS
    >>> details.path.endswith(".exe"), len(details.sha256), details.reasons  # doctest: +WINDOWS
    (True, 64, mappingproxy({}))

    Raises: UnsupportedPlatform off Windows; StaleProcess when it has gone, or its pid belongs to another process now;
    TypeError or ValueError for an argument that is no process.
    """
    check_process_or_pid("process", process)
    record = None if isinstance(process, int) else process
    pid = process if isinstance(process, int) else process.pid
    gone = StaleProcess(f"{process!r} has gone; procmon.processes() lists what runs", process)
    try:
        handle = _open(pid)
    except PermissionError:
        found = lookup(pid)
        if found is None or (record is not None and started_after(record, found.created)):
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
    created = from_filetime(win32_process.created_at(handle))
    if record.exited or started_after(record, created):
        raise StaleProcess(f"{record!r} has gone: pid {pid} belongs to a process created {created}", record)
    return ProcessDetails(record, handle)


def _open(pid: int) -> Handle:
    wanted = kernel.PROCESS_QUERY_LIMITED_INFORMATION
    try:
        return kernel.open_process(pid, wanted | kernel.PROCESS_VM_READ)
    except PermissionError:
        return kernel.open_process(pid, wanted)


class ProcessDetails:
    r"""The facts about one process that need a look-up; made by `procmon.inspect`.

    A fact that is not available is None, and `reasons` has the reason. The object keeps the process open until it is
    closed or collected, so that all facts are about the same process::

        details = procmon.inspect(process)
        if details.signer == "Example Ltd" and details.user == r"DESKTOP\alice":
            return procmon.ALLOW

    Windows does not give every fact of every process:

    >>> import procmon
    >>> system = procmon.ProcessDetails(procmon.SimulatedGate().start("system", pid=4), None)
    >>> system.sha256 is None
    True
    >>> system.reasons["sha256"]
    'Windows does not give the path of its executable'
    """

    def __init__(self, process: ProcessHelper, handle: Handle | None) -> None:
        self.process = process
        """The record that was given, or the record of the pid."""
        self._handle = handle
        self._facts: dict[str, object] = {}
        self._reasons: dict[str, str] = {}
        self._token: Handle | None = None
        self._relatives: dict[int, ProcessDetails] = {}

    def __repr__(self) -> str:
        return f"<ProcessDetails {self.process.pid} {self.process.image_name!r}>"

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why a fact is None: the reason by the fact's name, for facts that were looked up."""
        return MappingProxyType(self._reasons)

    @property
    def path(self) -> str | None:
        """DOS path of the executable, spelled as on the disk; its native path if it has no drive letter."""
        return self._once("path", self._find_path)

    @property
    def command_line(self) -> str | None:
        """Its command line, whole."""
        return self._once("command_line", self._find_command_line)

    @property
    def current_directory(self) -> str | None:
        """Its current directory, with a backslash at its end; of a held process, the directory in which it starts."""
        return self._once("current_directory", lambda: win32_process.current_directory(self._open_process()))

    @property
    def parent_command_line(self) -> str | None:
        """The command line of its parent, while the parent runs."""
        return self._once("parent_command_line", lambda: self._of_parent("command_line"))

    @property
    def parent_user(self) -> str | None:
        r"""The account under which its parent runs, while the parent runs: ``DOMAIN\name``."""
        return self._once("parent_user", lambda: self._of_parent("user"))

    @property
    def creator(self) -> str | None:
        """The image of the process that called the system to create it, which need not be the parent."""
        return self._once("creator", self._find_creator)

    @property
    def user(self) -> str | None:
        r"""The account under which it runs: ``DOMAIN\name``."""
        return self._once("user", lambda: token.account_name(token.user_sid(self._open_token())))

    @property
    def user_sid(self) -> str | None:
        """The security identifier of `user`: ``S-1-5-18``."""
        return self._once("user_sid", lambda: token.sid_text(token.user_sid(self._open_token())))

    @property
    def group(self) -> tuple[str, ...] | None:
        """The security identifiers of the groups in its token, without deny-only groups."""
        return self._once("group", lambda: tuple(map(token.sid_text, token.group_sids(self._open_token()))))

    @property
    def session(self) -> int | None:
        """Its terminal services session; 0 is the session of the services."""
        return self._once("session", lambda: token.session_of(self.process.pid))

    @property
    def logon_id(self) -> str | None:
        """Its logon session, in hex: ``0x3e7`` is the system's."""
        return self._once("logon_id", lambda: hex(token.logon_id(self._open_token())))

    @property
    def integrity(self) -> Integrity | int | None:
        """Its integrity level."""
        return self._once("integrity", lambda: _integrity(token.integrity_rid(self._open_token())))

    @property
    def elevated(self) -> bool | None:
        """Whether it has an administrator's full rights."""
        return self._once("elevated", lambda: token.is_elevated(self._open_token()))

    # ------------------------------------------------------------------------------------------------- of the file

    @property
    def size(self) -> int | None:
        """The size of the executable, in bytes."""
        return self._of_file("size", file_facts.size)

    @property
    def md5(self) -> str | None:
        """MD5 of the executable's bytes, in lowercase hex. Do not trust it: two files with one MD5 can be made."""
        return self._of_file("md5", lambda path: file_facts.file_hash(path, "md5"))

    @property
    def sha1(self) -> str | None:
        """SHA-1 of the executable's bytes, in lowercase hex. Two files with one SHA-1 can be made, as with MD5."""
        return self._of_file("sha1", lambda path: file_facts.file_hash(path, "sha1"))

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the executable's bytes, in lowercase hex."""
        return self._of_file("sha256", lambda path: file_facts.file_hash(path, "sha256"))

    @property
    def imphash(self) -> str | None:
        """MD5 of the names of its imported functions, as Sysmon computes it: equal for programs of one family."""
        return self._of_file("imphash", file_facts.imphash, "it imports nothing")

    @property
    def authenticode_sha256(self) -> str | None:
        """SHA-256 of the bytes that a signature covers; AppLocker's file hash. Signing the file does not change it."""
        return self._of_file("authenticode_sha256", file_facts.authenticode_sha256)

    @property
    def original_file_name(self) -> str | None:
        """The file name in its version resource, which a renamed program keeps."""
        return self._of_version("original_file_name")

    @property
    def product(self) -> str | None:
        """The product's name in its version resource."""
        return self._of_version("product")

    @property
    def company(self) -> str | None:
        """The company in its version resource, which proves nothing: see `signer`."""
        return self._of_version("company")

    @property
    def description(self) -> str | None:
        """The description in its version resource."""
        return self._of_version("description")

    @property
    def file_version(self) -> str | None:
        """The version in its version resource: ``10.0.19041.1 (WinBuild.160101.0800)``."""
        return self._of_version("file_version")

    @property
    def origin(self) -> str | None:
        """The zone that the executable came from, by the mark that browsers leave: ``internet``, ``intranet``,
        ``trusted``, ``local`` or ``restricted``."""
        return self._of_file("origin", file_facts.origin, "it has no mark of where it came from")

    @property
    def signature(self) -> Signature | None:
        """The executable's Authenticode signature, embedded or by catalogue, checked offline."""
        return self._of_file("signature", file_facts.signature)

    @property
    def signer(self) -> str | None:
        """The name of the executable's signer, if Windows trusts the signature."""
        return self._once("signer", lambda: self._need_valid_signature().subject)

    @property
    def publisher(self) -> str | None:
        """The signer as AppLocker writes it, with place and country: ``O=..., L=..., S=..., C=...``."""
        return self._once("publisher", lambda: self._need_valid_signature().publisher)

    def as_dict(self) -> dict[str, object]:
        """Look up all facts and return them as JSON types; a fact that is not available is None."""
        facts: dict[str, object] = {name: getattr(self, name) for name in _FACTS}
        group, signature, integrity = self.group, self.signature, self.integrity
        return facts | {
            "group": None if group is None else list(group),
            "integrity": integrity.name.lower() if isinstance(integrity, Integrity) else integrity,
            "signature": signature.status.value if signature is not None else None,
            "pid": self.process.pid,
            "reasons": dict(self._reasons),
        }

    def close(self) -> None:
        """Close the process handle; facts already looked up stay. Idempotent."""
        for relative in self._relatives.values():
            relative.close()
        for handle in (self._token, self._handle):
            if handle is not None:
                handle.close()

    # ------------------------------------------------------------------------------------------------- the look-ups

    def _once(self, name: str, find: Callable[[], _T]) -> _T | None:
        if name not in self._facts:
            try:
                self._facts[name] = find()
            except _NotAvailable as reason:
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
            raise _NotAvailable(
                "access denied: Windows does not let this user open the process; try an elevated Python"
            )
        return self._handle

    def _open_token(self) -> Handle:
        if self._token is None:
            self._token = token.open_token(self._open_process())
        return self._token

    def _find_path(self) -> str:
        if self._handle is not None:
            return win32_process.dos_or_native_path(self._handle)
        return self._need_name()

    def _need_name(self) -> str:
        if ProcessFlags.NAME_MISSING in self.process.flags or "\\" not in self.process.image_name:
            raise _NotAvailable("Windows does not give the path of its executable")
        return self.process.image_name

    def _need_path(self) -> str:
        if self.path is None:
            raise _NotAvailable(self._reasons["path"])
        return self.path

    def _find_command_line(self) -> str:
        known = self.process.command_line
        if known is not None and ProcessFlags.COMMAND_LINE_TRUNCATED not in self.process.flags:
            return known
        return win32_process.command_line(self._open_process())

    def _relative(self, pid: int) -> "ProcessDetails":
        """The details of the process that started this one, or created it."""
        if pid not in self._relatives:
            try:
                found = inspect(pid)
            except StaleProcess:
                raise _NotAvailable(f"process {pid} has gone") from None
            if not can_be_parent(found.process, self.process):
                found.close()
                raise _NotAvailable(f"process {pid} has gone, and another one has its pid")
            self._relatives[pid] = found
        return self._relatives[pid]

    def _of_parent(self, name: str) -> str:
        if not self.process.parent_pid:
            raise _NotAvailable("the record names no parent")
        parent = self._relative(self.process.parent_pid)
        value: str | None = getattr(parent, name)
        if value is None:
            raise _NotAvailable(f"of its parent: {parent.reasons[name]}")
        return value

    def _find_creator(self) -> str:
        if self.process.creator_pid is None:
            raise _NotAvailable("the gate does not report who created it")
        return self._relative(self.process.creator_pid).process.image_name

    def _of_file(self, name: str, find: Callable[[str], _T | None], none: str = "") -> _T | None:
        """A fact about the executable, whose path must be known; `none` is the reason if the file has no such fact."""

        def look_up() -> _T:
            found = find(self._need_path())
            if found is None:
                raise _NotAvailable(none)
            return found

        return self._once(name, look_up)

    def _of_version(self, name: str) -> str | None:
        def look_up() -> str:
            version: VersionInfo = file_facts.version(self._need_path())
            text: str | None = getattr(version, name)
            if text is None:
                raise _NotAvailable("its version resource does not say, or there is none")
            return text

        return self._once(name, look_up)

    def _need_valid_signature(self) -> Signature:
        signature = self.signature
        if signature is None:
            raise _NotAvailable(self._reasons["signature"])
        if signature.status is not SignatureStatus.VALID:
            unsigned = signature.status is SignatureStatus.UNSIGNED
            raise _NotAvailable("it is not signed" if unsigned else f"its signature is {signature.status.value}")
        return signature


_FACTS = (
    "path", "command_line", "current_directory", "parent_command_line", "parent_user", "creator", "user", "user_sid",
    "group", "session", "logon_id", "integrity", "elevated", "size", "md5", "sha1", "sha256", "imphash",
    "authenticode_sha256", "original_file_name", "product", "company", "description", "file_version", "origin",
    "signature", "signer", "publisher",
)  # fmt: skip


class _NotAvailable(Exception):
    """Why a fact is not available."""


def _integrity(rid: int) -> Integrity | int:
    try:
        return Integrity(rid)
    except ValueError:
        return rid
