"""Finds the running processes that a policy would block; ends them on request."""

import inspect
import os
from collections.abc import Callable

from ..errors import AccessDenied, StaleProcess
from ..gates.base import Gate
from ..records import DecidedBy, Decision, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..util.log import logger
from ..util.threads import run_in_thread
from .subscriptions import Subscription, read_opinion

__all__ = ["sweep"]

_AFTER_HOLD = (DecidedBy.CONTROLLER, DecidedBy.GATE_TIMEOUT, DecidedBy.TAMPER)
"""Who can have allowed a process that was held in this session."""


def sweep(gate: Gate, policy: Subscription, *, terminate: bool, note: Callable[[Decision], None]) -> list[Decision]:
    """See `Monitor.sweep`; `note` gets the decision about each process that was ended, or had gone before that."""
    decisions = []
    for process in run_in_thread(gate.snapshot):  # each step by itself: after Ctrl+C no further process is ended
        if _was_held(process) or process.verdict is Verdict.BLOCK:
            continue
        if (result := run_in_thread(policy.ask, process)) is None:
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


def _was_held(process: ProcessHelper) -> bool:
    """It is held, or was: so the callbacks, the user or the gate have decided about it. An earlier controller of a
    driver may have held a process that runs since before this session: nothing in this session has decided about it."""
    return process.paused or (process.decided_by in _AFTER_HOLD and ProcessFlags.RUNNING_BEFORE not in process.flags)


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
