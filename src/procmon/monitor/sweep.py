"""What a policy thinks of the processes that run already; and, when told to, their end."""

import inspect
import logging
import os
from collections.abc import Callable

from ..errors import AccessDenied, StaleProcess
from ..gates.base import Gate
from ..records import Decision, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.paths import lowercase
from ..util.threads import run_in_thread
from .subscriptions import Subscription, read_opinion

__all__ = ["sweep"]

log = logging.getLogger("procmon")

STATUS_BLOCKED = 0xC0000364
NO_SUCH_PROCESS = 87  # ERROR_INVALID_PARAMETER, of OpenProcess


def sweep(gate: Gate, policy: Subscription, *, terminate: bool, note: Callable[[Decision], None]) -> list[Decision]:
    """See `Monitor.sweep`; `note` is told of each process that was to be ended."""
    decisions = []
    for process in run_in_thread(gate.snapshot):  # each step by itself: after Ctrl+C no further process is ended
        if process.paused or process.verdict is Verdict.BLOCK or (result := run_in_thread(policy, process)) is None:
            continue
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"{policy.name} is a coroutine function, and a sweep asks at once: give it a function")
        verdict, by, who, audited = read_opinion(result, policy.name)
        ends = terminate and verdict is Verdict.BLOCK and not audited
        answer = run_in_thread(_end, gate, process) if ends else None
        decision = Decision(process=process, verdict=verdict, by=by, who=who, audited=audited, result=answer)
        decisions.append(decision)
        if answer is not None:
            run_in_thread(note, decision)
    return decisions


def _end(gate: Gate, process: ProcessHelper) -> VerdictResult | None:
    if ProcessFlags.EXEMPT in process.flags or process.pid in (0, 4, os.getpid()):
        log.warning("%r is never ended: it is critical, protected, or this program", process)
        return None
    try:
        getattr(gate, "terminate", _terminate)(process)
    except StaleProcess:
        return VerdictResult.STALE
    except (AccessDenied, OSError) as error:
        log.warning("%r could not be ended: %s", process, error)
        return None
    return VerdictResult.DONE


def _terminate(process: ProcessHelper) -> None:
    """End any process of the machine, once it is sure that its pid is still its own.

    Raises: StaleProcess, AccessDenied, OSError; UnsupportedPlatform off Windows.
    """
    from ..win32 import kernel  # here: a monitor of a gate that ends its processes itself needs no Windows
    from ..win32 import process as win32_process

    try:
        with kernel.open_process(
            process.pid, kernel.PROCESS_TERMINATE | kernel.PROCESS_QUERY_LIMITED_INFORMATION
        ) as handle:
            if process.created is None:
                same = lowercase(win32_process.image_path(handle)) == process.image_name
            else:
                same = win32_process.datetime_of(win32_process.created_at(handle)) == process.created
            if not same or win32_process.has_exited(handle):
                raise StaleProcess(f"{process!r} has gone: there is nothing left to end")
            kernel.terminate_process(handle, STATUS_BLOCKED)
    except PermissionError as error:
        raise AccessDenied(f"Windows does not let this program end {process!r}: run it as an administrator") from error
    except OSError as error:
        if getattr(error, "winerror", None) == NO_SUCH_PROCESS:
            raise StaleProcess(f"{process!r} has gone: there is nothing left to end") from error
        raise
