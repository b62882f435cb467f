"""Drive letters of volumes that were mounted after the driver had read the letters."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from ..records import ProcessFlags, ProcessHelper
from ..util.paths import lowercase
from ..win32.kernel import native_drives

__all__ = ["with_drive_letter"]


def with_drive_letter(process: ProcessHelper, drives: Callable[[], Mapping[str, str]] = native_drives) -> ProcessHelper:
    r"""The record with a DOS path, if its volume has a drive letter by now; else the record itself.

    >>> name = r"\Device\CdRom0\A.exe"
    >>> process = ProcessHelper(pid=4, parent_pid=4, image_name=name.lower(), native_name=name)
    >>> with_drive_letter(process, lambda: {r"\device\cdrom0": "e:"}).image_name
    'e:\\a.exe'
    """
    name = lowercase(process.native_name or "")
    for prefix, letter in drives().items():
        if name.startswith(prefix + "\\"):
            image_name, flags = letter + name[len(prefix) :], process.flags & ~ProcessFlags.NAME_NATIVE
            return replace(process, image_name=image_name, flags=flags)
    return process
