"""A 32-bit CPython for Windows on Debian, from the frozen program of a package on PyPI.

Python's own 32-bit files are only on python.org. But msl-loadlib, which calls 32-bit DLLs from a 64-bit Python,
contains a 32-bit server, frozen by PyInstaller: the interpreter that the Python Software Foundation signed, its
extension modules, and the whole standard library, compiled. `unpack` extracts them into the layout of an embeddable
Python. Only python.exe is missing; it is compiled here, and calls Py_Main.

The format of the archive in a frozen program: https://pyinstaller.org/en/stable/advanced-topics.html
"""

import marshal
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LAUNCHER", "unpack"]

LAUNCHER = """
#include <windows.h>

int wmain(int count, wchar_t** words) {
    HMODULE python = LoadLibraryW(L"%s");
    int (*run)(int, wchar_t**) = python ? (int (*)(int, wchar_t**))GetProcAddress(python, "Py_Main") : NULL;
    return run ? run(count, words) : 127;
}
"""

_END = struct.Struct("!8sIIII64s")  # a mark, the archive's size, its list's place and size, Python's version, its DLL
_ENTRY = struct.Struct("!IIIIBc")  # of the list: its own size; place, packed and real size, is packed, kind
_MARK = b"MEI\014\013\012\013\016"
_MODULE, _PACKAGE = 0, 1  # kinds in the archive of modules


def unpack(program: Path, folder: Path) -> str:
    """Extract the Python in a frozen `program` to `folder`, its library in a zip; return the name of its DLL."""
    data = program.read_bytes()
    at = data.rindex(_MARK)
    _, size, list_at, list_size, _, dll = _END.unpack_from(data, at)
    archive = data[at + _END.size - size : at]
    name = bytes(dll).rstrip(b"\0").decode()
    with zipfile.ZipFile(folder / name.replace(".dll", ".zip"), "w", zipfile.ZIP_DEFLATED) as library:
        for path, kind, content in _entries(archive, list_at, list_size):
            if path == "base_library.zip":
                (folder / path).write_bytes(content)
                with zipfile.ZipFile(folder / path) as first:
                    modules = {module: first.read(module) for module in first.namelist()}
                (folder / path).unlink()
            elif kind == b"z":
                magic, more = content[4:8], dict(_modules(content))
            elif path == "struct":  # the module that a frozen program needs before its archive
                early = content
            elif kind == b"b" and "\\" not in path and path != "_wmi.pyd":  # Wine's WMI is too small for it
                (folder / path).write_bytes(content)
        header = magic + b"\0" * 12
        compiled = {f"{module}.pyc": header + code for module, code in (more | {"struct": early}).items()}
        for module, content in (compiled | modules).items():
            library.writestr(module, content)
    return name


def _entries(archive: bytes, at: int, size: int) -> Iterator[tuple[str, bytes, bytes]]:
    """The files of the archive: name, kind and content of each."""
    end = at + size
    while at < end:
        entry_size, place, packed, _, is_packed, kind = _ENTRY.unpack_from(archive, at)
        name = archive[at + _ENTRY.size : at + entry_size].rstrip(b"\0").decode()
        content = archive[place : place + packed]
        yield name, kind, zlib.decompress(content) if is_packed else content
        at += entry_size


def _modules(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """The modules of the inner archive: path without an ending, and code of each."""
    (list_at,) = struct.unpack_from("!I", archive, 8)
    for name, (kind, place, size) in marshal.loads(archive[list_at:]):
        if kind in (_MODULE, _PACKAGE):
            path = name.replace(".", "/") + ("/__init__" if kind == _PACKAGE else "")
            yield path, zlib.decompress(archive[place : place + size])
