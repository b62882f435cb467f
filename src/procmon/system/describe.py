"""The record of a process, from an open handle to it: what Windows tells without reading its memory."""

import logging
from collections.abc import Callable
from typing import SupportsInt, TypeVar

from ..records import ProcessFlags, ProcessHelper
from ..util.paths import lowercase
from ..win32 import process as win32_process

__all__ = ["asked", "describe"]

logger = logging.getLogger("procmon")

_T = TypeVar("_T")


def describe(handle: SupportsInt, pid: int, *, flags: ProcessFlags = ProcessFlags(0), name: str = "") -> ProcessHelper:
    """The record of the process `pid`, which `handle` has open; `name` is for one that has no image file.

    Its start key is its creation time as a FILETIME, the same for whoever looks. What Windows does not tell is missing.
    """
    native = asked(win32_process.native_image_path, handle) or None
    path = asked(win32_process.image_path, handle) if native else None
    if not path:
        path = native or name
        flags |= ProcessFlags.NAME_NATIVE if native else ProcessFlags.NAME_MISSING
    basics = asked(win32_process.basics, handle)
    created = asked(win32_process.created_at, handle) or 0
    return ProcessHelper(
        pid=pid,
        parent_pid=basics.parent_pid if basics else 0,
        image_name=lowercase(path),
        start_key=created,
        created=win32_process.datetime_of(created) if created else None,
        native_name=native,
        flags=flags,
    )


def asked(question: Callable[[SupportsInt], _T], handle: SupportsInt) -> _T | None:
    """The answer; None, and a line in the log, where there is none: no record is lost because it lacks a fact."""
    try:
        return question(handle)
    except OSError as error:
        logger.debug("%s: %s", question.__name__, error)
        return None
