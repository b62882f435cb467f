"""Finds the running processes that a policy would block; ends them on request."""

import inspect
import os
from collections.abc import Callable

from ..errors import AccessDenied, StaleProcess
from ..gates.base import Gate
from ..records import Decision, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.log import logger
from ..util.threads import run_in_thread
from .subscriptions import Subscription, read_opinion

__all__ = ["sweep"]


def sweep(gate: Gate, policy: Subscription, *, terminate: bool, note: Callable[[Decision], None]) -> list[Decision]:
    """See `Monitor.sweep`; `note` gets the decision about each process that was ended, or had gone before that."""
    decisions = []
    for process in run_in_thread(gate.snapshot):  # each step by itself: after Ctrl+C no further process is ended
        if process.paused or process.verdict is Verdict.BLOCK or (result := run_in_thread(policy.ask, process)) is None:
            continue
        if inspect.iscoroutine(result):
            result.close()
            raise TypeError(f"{policy.name} is a coroutine function, and a sweep awaits nothing: give it a function")
        ruling = read_opinion(result, policy.name)
        ended = run_in_thread(_end, gate, process) if terminate and ruling.blocks else None
        decision = ruling.decision(process, result=ended)
        decisions.append(decision)
        if ended is not None:
            run_in_thread(note, decision)
    return decisions


def _end(gate: Gate, process: ProcessHelper) -> VerdictResult | None:
    if ProcessFlags.EXEMPT in process.flags or process.pid in (0, 4, os.getpid()):
        logger.warning("%r is never ended: it is critical, protected, or this program", process)
        return None
    try:
        gate.terminate(process)
    except StaleProcess:
        return VerdictResult.STALE
    except (AccessDenied, OSError) as error:
        logger.warning("%r could not be ended: %s", process, error)
        return None
    return VerdictResult.DONE
