"""Whether a held process would run the code of its file: its memory compared with the kernel's facts and the file.

The creator of a process can change its memory before it runs (process hollowing). It cannot change the facts that the
kernel itself keeps: the file of the process, the address where it begins, and the mappings. So this compares the two.
The comparison is possible because nothing of a held process has run: its code is as Windows mapped it, unless another
process has written to it.

It never reads the registers of the held thread. Windows reads them by an APC in that thread, which waits in the kernel
with APCs disabled (https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nc-ntddk-pload_image_notify_routine).
So the call could block for as long as the process is held.
"""

from collections.abc import Collection
from contextlib import suppress
from io import BytesIO
from typing import BinaryIO, Protocol

from ..records import ProcessHelper
from ..util.paths import lowercase
from ..win32 import files, kernel, memory
from ..win32 import process as win32_process
from ..win32.codes import ERROR_INVALID_PARAMETER, code_of
from ..win32.handles import Handle
from ..win32.memory import PAGE_BYTES, Region
from ..win32.privilege import debug_privilege
from .pe import PortableExecutable

__all__ = ["ProcessMemory", "describe_difference", "find_tampering"]

_ACCESS = kernel.PROCESS_QUERY_INFORMATION | kernel.PROCESS_VM_READ
_HEADER_BYTES = 1 << 16
_MAX_PAGES = 1 << 16  # 256 MiB of code


class ProcessMemory(Protocol):
    """The part of an open process that the comparison uses. Each call can raise OSError."""

    @property
    def names(self) -> Collection[str]:
        """The native paths of its executable, lowercase, as the kernel reports them."""

    def image_bases(self) -> list[int]:
        """The base of its image in each of its PEBs."""

    def start_address(self) -> int:
        """Where the kernel begins its first thread; 0 if Windows does not report it."""

    def region_at(self, address: int) -> Region: ...
    def mapped_file(self, address: int) -> str: ...
    def read(self, address: int, size: int) -> bytes: ...
    def private_pages(self, pages: list[int]) -> list[int]: ...
    def open_file(self) -> BinaryIO: ...


def find_tampering(process: ProcessHelper) -> str:
    """How the memory of a held process differs from its file, in words; "" if it does not, or the process has gone.

    It enables SeDebugPrivilege for this thread meanwhile, if the user has it.

    Raises: OSError when Windows does not let this program read the process.
    """
    with debug_privilege():
        try:
            handle = kernel.open_process(process.pid, _ACCESS)
        except OSError as error:
            if code_of(error) == ERROR_INVALID_PARAMETER:
                return ""
            raise
        with handle:
            try:
                return describe_difference(_Opened(handle, process))
            except OSError:
                if win32_process.has_exited(handle):
                    return ""
                raise


class _Opened:
    """The real `ProcessMemory`."""

    def __init__(self, handle: Handle, process: ProcessHelper) -> None:
        self._handle = handle
        names = (process.native_name, win32_process.native_image_path(handle))
        self._names = {lowercase(name) for name in names if name}

    @property
    def names(self) -> Collection[str]:
        return self._names

    def image_bases(self) -> list[int]:
        return [win32_process.image_base(self._handle, peb) for peb in win32_process.pebs(self._handle)]

    def start_address(self) -> int:
        return win32_process.start_address(self._handle)

    def region_at(self, address: int) -> Region:
        return memory.region_at(self._handle, address)

    def mapped_file(self, address: int) -> str:
        return memory.mapped_file(self._handle, address)

    def read(self, address: int, size: int) -> bytes:
        return memory.read(self._handle, address, size)

    def private_pages(self, pages: list[int]) -> list[int]:
        if kernel.is_wine():  # Wine answers for no other process, and sometimes reads code into private memory
            return []
        return memory.private_pages(self._handle, pages)

    def open_file(self) -> BinaryIO:
        return files.open_shared(win32_process.dos_or_native_path(self._handle))


def describe_difference(held: ProcessMemory) -> str:
    """The first difference between a process' memory and its executable, in words; "" if none is found.

    Raises: OSError.
    """
    bases, start = held.image_bases(), held.start_address()
    base = bases[0]
    return (
        _about_image(held, bases)
        or _about_start(held, base, start)
        or _about_file(held, base, start)
        or _about_pages(held, base)
    )


def _about_image(held: ProcessMemory, bases: list[int]) -> str:
    """The image that its PEBs name must be mapped, whole, from its executable."""
    base = bases[0]
    if len(set(bases)) > 1:
        return f"its two PEBs have their images at {' and '.join(map(hex, bases))}"
    region = held.region_at(base)
    if not region.is_image:
        return f"its PEB has the image at {base:#x}, and no executable is mapped there"
    if region.allocation_base != base:
        return f"its PEB has the image at {base:#x}, within one that is mapped at {region.allocation_base:#x}"
    name = held.mapped_file(base)
    if lowercase(name) not in held.names:
        return f"its PEB has the image at {base:#x}, and that is {name}"
    return ""


def _about_start(held: ProcessMemory, base: int, start: int) -> str:
    """The kernel must begin its first thread in that image, at the entry point of the header in memory."""
    header = held.read(base, min(held.region_at(base).size, _HEADER_BYTES))
    try:
        entry = PortableExecutable(BytesIO(header)).entry
    except ValueError as error:
        return f"the header at its image base {base:#x} was changed: {error}"
    if not start:
        return ""
    region = held.region_at(start)
    # Windows has moved the image, and still reports the old start address. No code can run there: nothing is mapped.
    if region.is_free:
        return ""
    if region.allocation_base != base:
        return f"it begins at {start:#x}, which is not in the image at {base:#x} that its PEB names"
    if entry and base + entry != start:
        return f"it begins at {start:#x}, and the header in its memory says {base + entry:#x}"
    return ""


def _about_file(held: ProcessMemory, base: int, start: int) -> str:
    """The code at its entry point must be the code in the file; a file that cannot be read is not compared."""
    try:
        file = held.open_file()
    except OSError:
        return ""
    with file:
        try:
            executable = PortableExecutable(file)
        except ValueError as error:
            return f"its file is no longer the file that it was made from: {error}"
        if start and executable.entry and not held.region_at(start).is_free and base + executable.entry != start:
            return f"it begins at {start:#x}, and its file says {base + executable.entry:#x}"
        expected = None
        with suppress(ValueError):  # a file that Windows accepts and this package does not
            expected = executable.code_at_entry(base)
    if expected is None:
        return ""
    found = held.read(base + expected.address, len(expected.code))
    for at, (one, other) in enumerate(zip(found, expected.code, strict=True)):
        if one != other:
            return f"the code at {base + expected.address + at:#x}, near its entry point, is not that of its file"
    return ""


def _about_pages(held: ProcessMemory, base: int) -> str:
    """No page of its code must have been written to: Windows makes such a page private, a copy of the file's page."""
    pages: list[int] = []
    address = base
    while len(pages) < _MAX_PAGES and (region := held.region_at(address)).allocation_base == base:
        if region.is_executable:
            pages += range(region.base, region.base + region.size, PAGE_BYTES)
        address = region.base + region.size
    private = held.private_pages(pages[:_MAX_PAGES]) if pages else []
    if private:
        return f"{len(private)} page{'s' * (len(private) > 1)} of its code were changed, the first at {private[0]:#x}"
    return ""
