"""The record of a process, from an open handle to it."""

from collections.abc import Callable
from typing import SupportsInt, TypeVar

from ..records import ProcessFlags, ProcessHelper
from ..util.filetime import from_filetime
from ..util.log import DEBUG, log_soon
from ..util.paths import lowercase
from ..win32 import process as win32_process

__all__ = ["asked", "describe"]


_T = TypeVar("_T")


def describe(
    handle: SupportsInt,
    pid: int,
    *,
    flags: ProcessFlags = ProcessFlags(0),
    name: str = "",
    basics: win32_process.ProcessBasics | None = None,
    command_line: str | None = None,
    earliest_key: int = 0,
    paused: bool = False,
) -> ProcessHelper:
    """Return the record of the open process `handle`; `name` is for a process without an image file.

    The start key is the creation time as a FILETIME, the same in every program, but at least `earliest_key`. Facts
    that Windows does not give are missing.
    """
    native = asked(win32_process.native_image_path, handle) or None
    path = asked(win32_process.image_path, handle) if native else None
    if not path:
        path = native or name
        flags |= ProcessFlags.NAME_NATIVE if native else ProcessFlags.NAME_MISSING
    basics = basics or asked(win32_process.basics, handle)
    created = asked(win32_process.created_at, handle) or 0
    return ProcessHelper(
        pid=pid,
        parent_pid=basics.parent_pid if basics else 0,
        image_name=lowercase(path),
        paused=paused,
        start_key=max(created, earliest_key),
        created=from_filetime(created),
        command_line=command_line,
        native_name=native,
        flags=flags,
    )


def asked(question: Callable[..., _T], *arguments: object) -> _T | None:
    """Return the result of the call, or None and a log line when it fails: a record can lack a fact."""
    try:
        return question(*arguments)
    except OSError as error:
        log_soon(DEBUG, "%s: %s", question.__name__, error)
        return None
