"""Facts about a file: hashes, version, imports, signature, origin.

They are cached until the file changes, if its file system can be trusted to say so (`_is_trusted`).
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from io import BufferedReader
from typing import TypeVar, cast

from ..win32 import files
from ..win32.codes import ERROR_INVALID_NAME, code_of
from ..win32.file_access import changers_of
from .pe import PortableExecutable, VersionInfo
from .signature import Signature, find_signature

__all__ = ["FileCache", "authenticode_sha256", "file_hash", "imphash", "origin", "signature", "size", "version"]

_T = TypeVar("_T")

_ZONES = ("local", "intranet", "trusted", "internet", "restricted")
"""By URLZONE: https://learn.microsoft.com/previous-versions/windows/internet-explorer/ie-developer/platform-apis/ms537175(v=vs.85)"""
_ZONE_BYTES = 4096


class FileCache:
    """A cache of facts, by the path, and the file's identity, size and times. The oldest entry is dropped first."""

    LIMIT = 4096

    def __init__(self) -> None:
        self._found: OrderedDict[tuple[object, ...], object] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, path: str, file: BufferedReader, what: str, find: Callable[[], _T]) -> _T:
        key = (path, what, *_identity(file))
        with self._lock:
            if key in self._found:
                return cast(_T, self._found[key])
        found = find()
        if (path, what, *_identity(file)) == key:  # it was not written to meanwhile
            with self._lock:
                self._found[key] = found
                while len(self._found) > self.LIMIT:
                    self._found.popitem(last=False)
        return found


_cache = FileCache()


def _identity(file: BufferedReader) -> tuple[int, int, int, int, int]:
    """Volume serial, file index, size, times of writing and of any change."""
    status = os.fstat(file.fileno())
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, files.changed_at(file))


def _is_trusted(file: BufferedReader) -> bool:
    """Whether a change of the file always changes its numbers.

    Who can write to a file of NTFS can set all its times. A server, or who prepares a removable disk, chooses every
    number, and the access list, too.
    """
    try:
        return files.on_fixed_disk(file) and not changers_of(files.handle_of(file))
    except OSError:  # a file system that has no access lists
        return False


def _of_file(path: str, what: str, find: Callable[[BufferedReader], _T]) -> _T:
    with files.open_shared(path) as file:
        return _cache.of(path, file, what, lambda: find(file)) if _is_trusted(file) else find(file)


def size(path: str) -> int:
    """Its size in bytes."""
    with files.open_shared(path) as file:
        return os.fstat(file.fileno()).st_size


def file_hash(path: str, algorithm: str) -> str:
    """The hash of all its bytes: ``md5``, ``sha1`` or ``sha256``, in lowercase hex."""
    import hashlib  # here, since `import procmon` needs none of it

    def find(file: BufferedReader) -> str:
        return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()

    return _of_file(path, algorithm, find)


def authenticode_sha256(path: str) -> str:
    """The SHA-256 that a signature would sign. Raises: ValueError if the file is no portable executable."""
    return _of_file(path, "authenticode", lambda file: PortableExecutable(file).authenticode_hash())


def imphash(path: str) -> str | None:
    """The hash of its imports; None if it imports nothing. Raises: ValueError as above."""
    return _of_file(path, "imphash", lambda file: PortableExecutable(file).imphash())


def version(path: str) -> VersionInfo:
    """Its version resource. Raises: ValueError as above."""
    return _of_file(path, "version", lambda file: PortableExecutable(file).version())


def signature(path: str) -> Signature:
    """Its Authenticode signature."""
    return _of_file(path, "signature", lambda file: find_signature(path, file))


def origin(path: str) -> str | None:
    """The zone that the file came from, by the mark that browsers and mail programs leave; None without such a mark.

    The mark is the stream Zone.Identifier of the file: it is gone when the file was unblocked, or copied to a file
    system without streams. It is never cached, because a new mark does not necessarily change the file.
    """
    try:
        with files.open_shared(path + ":Zone.Identifier") as stream:
            return read_zone(stream.read(_ZONE_BYTES))
    except FileNotFoundError:
        return None
    except OSError as error:
        if code_of(error) == ERROR_INVALID_NAME:  # a file system without streams, such as FAT, has no such names
            return None
        raise


def read_zone(data: bytes) -> str | None:
    r"""The zone that the bytes of a Zone.Identifier name, or None.

    >>> read_zone(b"[ZoneTransfer]\r\nZoneId=3\r\nHostUrl=https://example.com/a.exe\r\n")
    'internet'
    """
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
    for line in data.decode(encoding, "replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip().lower() == "zoneid" and value.strip().isdecimal():
            number = int(value)
            return _ZONES[number] if number < len(_ZONES) else None
    return None
