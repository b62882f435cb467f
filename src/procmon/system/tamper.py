"""Whether a process that is held would run the code of its file: what its memory says, against its section and file.

Who creates a process can change its memory before it runs (process hollowing). What cannot be changed from outside the
kernel is what the kernel itself keeps: which file the process was made of, where it begins, and what is mapped where.
So this compares the two. It can look at a process that is held because nothing of it has run: its code is as Windows
has mapped it, unless another process has written there.

It never asks for the registers of the held thread. Windows answers that by an APC in that very thread, which waits in
the kernel with APCs disabled (https://learn.microsoft.com/windows-hardware/drivers/ddi/ntddk/nc-ntddk-pload_image_notify_routine),
so that the question could hang for as long as the process is held.
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
    """What the comparison needs of an open process. Each call can raise OSError."""

    @property
    def names(self) -> Collection[str]:
        """The native paths, lowercase, that its executable has by the kernel's own account."""

    def image_bases(self) -> list[int]:
        """Where its image is, by each of its PEBs."""

    def start_address(self) -> int:
        """Where the kernel begins its first thread; 0 where Windows does not tell."""

    def region_at(self, address: int) -> Region: ...
    def mapped_file(self, address: int) -> str: ...
    def read(self, address: int, size: int) -> bytes: ...
    def private_pages(self, pages: list[int]) -> list[int]: ...
    def open_file(self) -> BinaryIO: ...


def find_tampering(process: ProcessHelper) -> str:
    """How the memory of a held process differs from its file, in words; "" where it does not, and where it has gone.

    It takes SeDebugPrivilege for this thread meanwhile, if the user has it.

    Raises: OSError where Windows does not let this program look.
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
        if kernel.is_wine():  # which answers for no other process, and reads code into private memory where it must
            return []
        return memory.private_pages(self._handle, pages)

    def open_file(self) -> BinaryIO:
        return files.open_shared(win32_process.image_path(self._handle))


def describe_difference(held: ProcessMemory) -> str:
    """The first difference between a process' memory and its executable, in words; "" where none is found.

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
    """What its PEBs say is its image is one that was mapped, whole, from its executable."""
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
    """The kernel begins its first thread in that image, where the header in memory says, too."""
    header = held.read(base, min(held.region_at(base).size, _HEADER_BYTES))
    try:
        entry = PortableExecutable(BytesIO(header)).entry
    except ValueError as error:
        return f"the header at its image base {base:#x} was changed: {error}"
    if not start:
        return ""
    region = held.region_at(start)
    # Where nothing is mapped nothing can run: Windows has moved the image, which its address of the start ignores.
    if region.is_free:
        return ""
    if region.allocation_base != base:
        return f"it begins at {start:#x}, which is not in the image at {base:#x} that its PEB names"
    if entry and base + entry != start:
        return f"it begins at {start:#x}, and the header in its memory says {base + entry:#x}"
    return ""


def _about_file(held: ProcessMemory, base: int, start: int) -> str:
    """The code at its entry point is that of the file; a file that cannot be read is not compared."""
    try:
        file = held.open_file()
    except OSError:
        return ""
    with file:
        try:
            executable = PortableExecutable(file)
        except ValueError as error:
            return f"its file is not what it was made of any more: {error}"
        if start and executable.entry and not held.region_at(start).is_free and base + executable.entry != start:
            return f"it begins at {start:#x}, and its file says {base + executable.entry:#x}"
        expected = None
        with suppress(ValueError):  # a file that Windows reads and this package does not
            expected = executable.code_at_entry(base)
    if expected is None:
        return ""
    found = held.read(base + expected.address, len(expected.code))
    for at, (one, other) in enumerate(zip(found, expected.code, strict=True)):
        if one != other:
            return f"the code at {base + expected.address + at:#x}, near its entry point, is not that of its file"
    return ""


def _about_pages(held: ProcessMemory, base: int) -> str:
    """No page of its code was written to, as far as Windows tells: such a page is private, a copy of the file's."""
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
