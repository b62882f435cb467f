"""The files of a policy: their paths, their texts, and whether they have changed."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import PolicyError, Problem
from .parser import Source

__all__ = ["LARGEST", "Stamp", "files_of", "read_files", "stamp"]

LARGEST = 64 * 1024 * 1024
"""Bytes of the largest policy file that is read."""

Stamp = tuple[tuple[str, int, int], ...]
"""Path, time and size of each file."""

_UTF16 = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16 (big endian)"}


def read_files(paths: Sequence[Path]) -> list[Source]:
    """Read files, and the ``*.toml`` in folders in the order of their names.

    Raises: PolicyError when one is missing, cannot be read, or is no text.
    """
    return [Source(_read(file), str(file)) for path in paths for file in files_of(path)]


def stamp(paths: Sequence[Path]) -> Stamp | None:
    """A value that changes when a file is changed, added or removed; None if one is missing at this moment."""
    found: list[tuple[str, int, int]] = []
    try:
        for path in paths:
            for file in files_of(path):
                status = file.stat()
                found.append((str(file), status.st_mtime_ns, status.st_size))
    except (OSError, PolicyError):
        return None
    return tuple(found)


def files_of(path: Path) -> list[Path]:
    """The files of a policy at `path`: the file, or every ``*.toml`` of a folder, by name. Raises: PolicyError."""
    if not path.is_dir():
        return [path]
    try:
        names = sorted(name for name in os.listdir(path) if name.lower().endswith(".toml"))
    except OSError as error:
        raise PolicyError(f"{path}: the folder cannot be read: {error.strerror or error}") from error
    if not names:
        raise PolicyError(f"{path}: there is no *.toml in this folder; put a policy there, or give the path of a file")
    return [path / name for name in names]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise PolicyError(f"{path}: there is no such file; give the path of a policy") from error
    except OSError as error:
        raise PolicyError(f"{path}: it cannot be read: {error.strerror or error}; give the path of a policy") from error
    if len(data) > LARGEST:
        raise PolicyError(f"{path}: it is larger than {LARGEST // 2**20} MB; give the path of a policy, a TOML text")
    unmarked = b"\0\0\0\0" in (data[:8:2], data[1:8:2])
    kind = _UTF16.get(data[:2]) or ("UTF-16 without a mark" if unmarked and len(data) % 2 == 0 else None)
    if kind is not None:
        problem = Problem(1, 1, f"the file is {kind}", "save the policy as UTF-8")
        raise PolicyError(f"{path}: it is not UTF-8 text: {problem}", [replace(problem, source=str(path))])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        problem = Problem(line, column, f"byte 0x{data[error.start]:02x} is not UTF-8 text", "save the policy as UTF-8")
        raise PolicyError(f"{path}: it is not a text: {problem}", [replace(problem, source=str(path))]) from error
