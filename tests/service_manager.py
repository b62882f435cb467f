"""A service manager and a Windows installation in memory, for tests of the driver's service and its file."""

import struct
from dataclasses import dataclass, field
from pathlib import Path

from procmon.util.version import VERSION
from procmon.win32 import scm
from procmon.win32._bind import windows_error

X64, X86, ARM64 = 0x8664, 0x14C, 0xAA64


class Manager:
    """One service in memory, with the rules of the real manager; `errors` names calls that fail, with their codes."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.state = scm.STOPPED
        self.exit_code = 0
        self.held_open = False
        self.errors: dict[str, int] = {}
        self.calls: list[str] = []

    def _check(self, call: str, **codes: bool) -> None:
        self.calls.append(call)
        code = self.errors.get(call) or next((int(code[1:]) for code, fails in codes.items() if fails), 0)
        if code:
            raise windows_error(call, code)

    def create(self, name: str, display_name: str, path: str) -> None:
        self._check("create", _1073=self.path is not None)
        self.path = "\\??\\" + path

    def start(self, name: str) -> None:
        self._check("start", _1060=self.path is None, _1056=self.state == scm.RUNNING)
        self.state = scm.RUNNING

    def stop(self, name: str) -> scm.ServiceState:
        self._check("stop", _1060=self.path is None, _1062=self.state == scm.STOPPED)
        if not self.held_open:
            self.state = scm.STOPPED
        return scm.ServiceState(self.state)

    def query(self, name: str) -> scm.ServiceState:
        self._check("query", _1060=self.path is None)
        return scm.ServiceState(self.state, self.exit_code)

    def image_path(self, name: str) -> str:
        self._check("image_path", _1060=self.path is None)
        return self.path or ""

    def delete(self, name: str) -> None:
        self._check("delete", _1060=self.path is None)
        self.path = None


def version_information(version: str = VERSION) -> bytes:
    """The head of VS_FIXEDFILEINFO."""
    major, minor, patch = map(int, version.split("."))
    return struct.pack("<IIHHHH", 0xFEEF04BD, 0x10000, minor, major, 0, patch)


def executable(path: Path, machine: int = X64, information: bytes = version_information()) -> Path:
    """A file with the header of a Windows program for that machine, and a version resource."""
    head = b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0" + machine.to_bytes(2, "little")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + information)
    return path


@dataclass
class Computer:
    """A Windows in a folder: its kernel, its System32, and its security descriptors."""

    folder: Path
    kernel: int = X64
    writers: dict[str, str] = field(
        default_factory=dict
    )  # descriptors by the end of a path; otherwise only administrators have access

    @property
    def system32(self) -> Path:
        return self.folder / "system32"

    @property
    def copy(self) -> Path:
        return self.system32 / "drivers" / "ProcMonGate.sys"

    @property
    def packaged(self) -> Path:
        return self.folder / "package" / "driver" / "x64" / "procmon.sys"

    def descriptor(self, path: str) -> str:
        return next(
            (text for end, text in self.writers.items() if path.endswith(end)), "O:BAD:(A;;FA;;;BA)(A;;FR;;;BU)"
        )
