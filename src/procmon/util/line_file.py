"""Files of lines, renamed when they are too large: ``log`` becomes ``log.1``, the old ``log.1`` becomes ``log.2``...

One writer appends, with `LineFile`, while any number of readers read all files, with `open_all`.
"""

import os
import re
from contextlib import ExitStack, suppress
from io import FileIO
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

from ..errors import AuditError
from .log import WARNING, log

__all__ = ["LineFile", "open_all", "paths_of"]


class LineFile:
    """The newest file, open for its one writer. Not thread-safe.

    Raises: AuditError when the file cannot be opened.
    """

    def __init__(self, path: Path, max_bytes: int | None, keep: int, fsync: bool) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._fsync = fsync
        self._rotation_failed = False
        self._file = self._open()

    @property
    def closed(self) -> bool:
        """`close` has been called, or the file could not be opened again; `append` opens it."""
        return self._file.closed

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def append(self, lines: list[str]) -> int:
        """Append the first of these lines in one write, as many as the file has room for; return how many: at least
        one. The lines are ASCII, each with its line end. On return the operating system has them; with `fsync` they are
        on the disk.

        Raises: AuditError when the file cannot be opened again after it was renamed; OSError when the disk refuses.
        Then no line is written, and the next call tries again.
        """
        size = self._size()
        if self._max_bytes is not None:
            if size > 0 and size + len(lines[0]) > self._max_bytes:
                self._rotate()
                size = self._size()
            ends = accumulate(map(len, lines[1:]), initial=size + len(lines[0]))
            lines = lines[: max(1, sum(end <= self._max_bytes for end in ends))]
        self._write("".join(lines).encode("ascii"))
        return len(lines)

    def _open(self) -> FileIO:
        try:
            with ExitStack() as on_failure:
                file = on_failure.enter_context(FileIO(self._path, "a+"))
                if file.seek(0, os.SEEK_END):  # a pipe cannot seek
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")  # the last writer died inside a line: end that line
                status = os.fstat(file.fileno())
                self._identity = (status.st_dev, status.st_ino)
                on_failure.pop_all()
                return file
        except OSError as error:
            reason = error.strerror or error
            raise AuditError(f"{self._path}: it cannot be written: {reason}; give the path of a file") from error

    def _size(self) -> int:
        """The size of the file. Opens the file again if it is closed, or if another program removed or renamed it.

        On Windows no program can remove or rename the file while it is open here.
        """
        if os.name == "posix" and not self._file.closed:
            with suppress(FileNotFoundError):
                status = os.stat(self._path)
                if (status.st_dev, status.st_ino) == self._identity:
                    return status.st_size
            self._file.close()
        if self._file.closed:
            self._file = self._open()
        return self._file.seek(0, os.SEEK_END)

    def _write(self, data: bytes) -> None:
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
            if self._fsync:
                os.fsync(self._file.fileno())
        except OSError:
            if written:  # a full disk can take half a line: remove it
                try:
                    self._file.truncate(self._file.seek(0, os.SEEK_END) - written)
                except OSError:
                    self._file.close()  # the next call opens it again, and ends the half line
                    raise
            raise

    def _rotate(self) -> None:
        """Make room: rename the file to the newest old file. Where Windows refuses, because a program reads the file,
        the file grows on.

        Older files move up only as far as the first free number. A refused rename leaves such a free number, and is
        tried again with each line. If all files moved up each time, the oldest would soon be deleted.
        """
        self._file.close()
        try:
            free = next((n for n in range(1, self._keep) if not _numbered(self._path, n).exists()), self._keep)
            for number in range(free, 0, -1):
                os.replace(_numbered(self._path, number - 1), _numbered(self._path, number))
            self._rotation_failed = False
        except OSError as error:
            if not self._rotation_failed:
                log(WARNING, "%s is over its size and cannot be renamed, so it grows on: %s", self._path, error)
            self._rotation_failed = True
        finally:
            self._file = self._open()


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}") if number else path


def paths_of(path: Path) -> list[Path]:
    """The file and its older ones, oldest first. Raises: AuditError when there is none."""
    if not (numbers := _numbers(path)):
        raise AuditError(f"{path}: there is no such audit log; give the path that AuditLog, or --log, was given")
    return [_numbered(path, number) for number in reversed(numbers)]


def open_all(path: Path, stack: ExitStack) -> list[tuple[Path, BinaryIO]]:
    """Open the files of `paths_of`, oldest first: no file twice and none left out, even if the log rotates meanwhile.

    A file only ever moves to higher numbers, and no file passes another. So the files are opened in the order of their
    numbers, the newest first. In each step the next file is opened, then the one before it is checked. If that one
    still has its number, there was no file between the two. If it has moved, its new number is looked up, and the step
    is repeated from there.
    """
    opened: list[tuple[Path, BinaryIO]] = []
    number = -1  # of the last file that was opened
    while True:
        found = _open_first_above(path, number)
        if opened and not _is_at(opened[-1][1], _numbered(path, number)):
            if found is not None:
                found[1].close()
            above = (n for n in _above(path, number) if _is_at(opened[-1][1], _numbered(path, n)))
            if (moved_to := next(above, None)) is None:
                break  # it was deleted, so it was the oldest
            number = moved_to
        elif found is None:
            break
        else:
            number, file = found
            opened.append((_numbered(path, number), stack.enter_context(file)))
    return opened[::-1]


def _open_first_above(path: Path, number: int) -> tuple[int, BinaryIO] | None:
    for above in _above(path, number):
        try:
            return above, _numbered(path, above).open("rb")
        except FileNotFoundError:
            pass
        except OSError as error:
            reason = error.strerror or error
            raise AuditError(f"{_numbered(path, above)}: it cannot be read: {reason}") from error
    return None


def _above(path: Path, number: int) -> list[int]:
    """The numbers above this one that files of the log have, or get by a rename that is in progress.

    Not all numbers up to the highest: ``audit.jsonl.20260131`` is a copy that counts as an older file, too.
    """
    numbers = _numbers(path)
    return sorted({above for each in numbers for above in (each, each + 1) if above > number})


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _numbers(path: Path) -> list[int]:
    """The numbers of the log's files, 0 for the newest; a number is missing where a rename was refused."""
    numbered = re.compile(re.escape(path.name) + r"\.([1-9][0-9]{0,8})")
    numbers = [0] if path.is_file() else []
    if path.parent.is_dir():
        numbers += [int(found[1]) for each in path.parent.iterdir() if (found := numbered.fullmatch(each.name))]
    return sorted(numbers)
