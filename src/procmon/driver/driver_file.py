r"""The driver's file: how it is found and checked, and its copy in ``System32\drivers``.

The file that a service names runs in the kernel. So exactly the checked bytes are written, into a folder that only
administrators can change. Or the file stays in its place, if only administrators can change it there.
"""

import os
import struct
from contextlib import suppress
from pathlib import Path

from ..errors import DriverFileMissing, DriverFileUnsafe, DriverNotSigned, VersionMismatch
from ..util.log import WARNING, log
from ..util.version import VERSION
from ..win32 import file_access, files, machine
from ..win32.translate import COPY, translated

__all__ = [
    "FILE_NAME",
    "copy_of",
    "file_exists",
    "find_driver",
    "plain_path",
    "read_driver",
    "remove_copy",
    "safe_path",
    "write_copy",
]

FILE_NAME = "procmon.sys"

_HOW_TO_GET_IT = "the wheel of procmon-gate has it; in a checkout of the project, `python3 dev.py driver` builds it"
_ON_WINE = (
    "Wine runs a test build, which is in no wheel; in a checkout of the project, `python3 dev.py driver` builds it"
)
_VERSION_MARK = struct.pack("<II", 0xFEEF04BD, 0x10000)  # the head of VS_FIXEDFILEINFO


def find_driver() -> Path:
    r"""Return the path of the driver for this machine's kernel: in the package, or in the checkout around it.

    In the package it is ``procmon\driver\ARCHITECTURE\procmon.sys``; a frozen application has it there if it includes
    the package's data (``pyinstaller --collect-data procmon``). The architecture is the kernel's, not Python's.

    >>> import procmon
    >>> procmon.find_driver().name  # doctest: +WINDOWS
    'procmon.sys'

    Raises: DriverFileMissing, with the paths that were searched; UnsupportedPlatform off Windows.
    """
    architecture = machine.driver_architecture()
    places = [_package() / "driver" / architecture / FILE_NAME]
    checkout = _package().parents[1]
    if (checkout / "driver" / "protocol.h").is_file():
        places.append(checkout / "build" / "driver" / architecture / FILE_NAME)
    for place in places:
        if place.is_file():
            return place
    how = _ON_WINE if architecture == "wine" else _HOW_TO_GET_IT
    raise DriverFileMissing(
        f"there is no driver for this machine ({architecture}) at {' or '.join(map(str, places))}: {how}; or give the "
        "path of one to install()"
    )


def _package() -> Path:
    return Path(__file__).resolve().parents[1]


def plain_path(path: str | os.PathLike[str]) -> str:
    r"""The form of a driver's path that every Windows accepts: absolute, and without ``\??\`` or ``\\?\``.

    The path of a volume without a drive letter, ``\\?\Volume{...}\``, has no other form.
    """
    text = os.fsdecode(path)
    for prefix in ("\\??\\", "\\\\?\\"):
        if text.startswith(prefix + "UNC\\"):
            text = "\\\\" + text[len(prefix) + 4 :]
        if not text.startswith(prefix + "Volume{"):
            text = text.removeprefix(prefix)
    return os.path.abspath(text)


def read_driver(path: str) -> bytes:
    """Read a driver file; it must be this package's and for this machine. Raises as `DriverService.install`."""
    if not file_exists(path):
        raise DriverFileMissing(f"there is no file {path}: {_HOW_TO_GET_IT}; or give its path")
    with files.whole_system(), open(path, "rb") as file:
        data = file.read()
    at = int.from_bytes(data[0x3C:0x40], "little")
    if data[:2] != b"MZ" or data[at : at + 4] != b"PE\0\0":
        raise DriverFileMissing(f"{path} is no driver, nor any Windows program: build it, or give the right path")
    code, wanted = int.from_bytes(data[at + 4 : at + 6], "little"), machine.driver_architecture()
    built_for = machine.MACHINES.get(code, f"machine 0x{code:X}")
    if built_for != {"wine": "x64"}.get(wanted, wanted):
        raise DriverNotSigned(f"{path} is built for {built_for}: this Windows needs the driver for {wanted}")
    if (version := _version_of(data)) != VERSION:
        what = f"is of version {version}" if version else "does not say which driver it is"
        raise VersionMismatch(
            f"{path} {what}, and this package needs {VERSION}: install the one that came with it; build/driver is made "
            "anew by `python3 dev.py driver`"
        )
    return data


def _version_of(data: bytes) -> str | None:
    mark = data.find(_VERSION_MARK)
    if mark < 0 or mark + 16 > len(data):
        return None
    high, low = struct.unpack_from("<II", data, mark + 8)
    return f"{high >> 16}.{high & 0xFFFF}.{low >> 16}"


def file_exists(path: str) -> bool:
    """Whether a file exists for the kernel, which does not redirect System32 as Windows does for 32-bit programs."""
    with files.whole_system():
        return os.path.isfile(path)


# ------------------------------------------------------------------------------------------------------- the copy


def copy_of(service: str) -> str:
    r"""Path of the copy for a service: ``C:\Windows\system32\drivers\SERVICE.sys``."""
    return os.path.join(files.system_folder(), "drivers", f"{service}.sys")


def write_copy(data: bytes, path: str) -> None:
    """Write the driver to the path of its copy, whole or not at all, then read the file back and compare it.

    Raises: AccessDenied; DriverRunning when the file cannot be replaced because it is loaded; DriverFileMissing when
    the file differs from the written bytes.
    """
    new = f"{path}.new"
    with translated(COPY, path=path), files.whole_system():
        if not (os.path.exists(path) and Path(path).read_bytes() == data):
            try:
                with open(new, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, path)
            except OSError:
                with suppress(OSError):
                    os.unlink(new)
                raise
        written = Path(path).read_bytes()
    if written != data:
        raise DriverFileMissing(
            f"{path} is not what was written to it: has an antivirus changed it? Then install() again"
        )


def remove_copy(path: str) -> None:
    """Delete a copy. A copy that cannot be deleted stays, with a line in the log: no service names it any more."""
    try:
        with files.whole_system():
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log(WARNING, "%s is not needed any more, and could not be deleted: %s", path, error)


# --------------------------------------------------------------------------------------- the file in its place


def safe_path(path: str) -> str:
    """Return the real path of a file, behind links and mapped drives, if only administrators can change or replace it.

    Raises: DriverFileUnsafe, with the commands that repair it; ValueError for a file on the network; OSError when
    Windows does not give the access rights.
    """
    with files.whole_system():  # a 32-bit Python would find another System32
        path = os.path.realpath(path)
    if path.startswith("\\\\"):
        raise ValueError(f"Windows loads no driver from the network ({path}): leave out copy=False")
    file_access.descriptor(files.system_folder())  # loads what the call needs, which it cannot in `whole_system`
    with files.whole_system():
        if not (found := file_access.writers(path)):
            return path
    lines = [f"    {file_access.how_to_protect(place, folder=place != path)}" for place in found]
    who = "; ".join(f"{', '.join(others)} can change {place}" for place, others in found.items())
    raise DriverFileUnsafe(
        "\n".join([f"{who}: install a copy (without copy=False), or mend it in an administrator's prompt:", *lines])
    )
