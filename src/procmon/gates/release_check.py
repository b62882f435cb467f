"""The check before a release: a gate examines processes before it releases them, in a limited time.

`system.tamper.find_tampering` is the examination: it compares the memory of a process with its file.

A read of the memory of a process, or of its file, can take as long as an attacker likes: pages and files can be on a
share whose server does not answer. So helper threads read, and the gate waits for a limited time. A process that was
not examined by then counts as one that cannot be examined. A thread that hangs ends when its read ends.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from ..errors import GateClosed
from ..records import DecidedBy, ProcessFlags, ProcessHelper, Verdict, VerdictResult
from ..system.tamper import find_tampering
from ..util.after_verdict import after_verdict
from ..util.log import WARNING, log_soon
from ..util.threads import Call, submit, wait_for

__all__ = ["ReleaseCheck"]

TIMEOUT_S = 3.0
"""Seconds that one call waits, plus `MORE_S` for each process. To check a process takes a millisecond or two."""
MORE_S = 0.1

FINISH_S = 0.5
"""Seconds that `finish` waits for the answers of the checks that it cuts short."""

_SLICE_S = 0.05  # within which a check is cut short
_THREADS = 4  # so that a read that hangs delays no other process of the same call
_REMEMBERED = 1024

Identity = tuple[int, int]

Answer = Callable[[list[ProcessHelper], Verdict, bool], list[VerdictResult]]
"""Carries out a verdict for processes; True: because tampering was found. Returns one result for each, in order."""


class ReleaseCheck:
    """Finds the processes whose memory differs from their file, and remembers them. Thread-safe.

    `look` returns what is wrong with one process, in words, or "". An exception from it counts as wrong, too: an
    attacker can cause one.
    """

    def __init__(self, on_tamper: Verdict, look: Callable[[ProcessHelper], str] = find_tampering) -> None:
        self._on_tamper = on_tamper
        self._look = look
        self._noted: OrderedDict[Identity, ProcessHelper] = OrderedDict()
        self._changed = threading.Condition()
        self._running = 0  # calls of `release`
        self._finishing = False

    def release(
        self, processes: Sequence[ProcessHelper], answer: Answer
    ) -> tuple[list[VerdictResult], list[ProcessHelper]]:
        """Give `on_tamper` to the processes in which something is wrong, then allow the others.

        Returns one result for each, in order, and the updated records of the processes that got `on_tamper`.

        Raises: GateClosed after `finish`.
        """
        with self._changed:
            if self._finishing:
                raise GateClosed("the gate is closed: make a new one")
            self._running += 1
        try:
            return self._release(processes, answer)
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    def finish(self) -> None:
        """Cut short the checks in progress, because their gate closes, and wait until their processes are answered.

        A process that was not examined counts as one that cannot be examined: an attacker can make a check hang.
        """
        with self._changed:
            self._finishing = True
            wait_for(self._changed, lambda: not self._running, FINISH_S)

    def _release(
        self, processes: Sequence[ProcessHelper], answer: Answer
    ) -> tuple[list[VerdictResult], list[ProcessHelper]]:
        reasons = self.find(processes)
        found = [process for process in processes if process.identity in reasons]
        not_done = {process.identity for process in found if process.identity not in self._noted}
        records = [self._note(process) for process in found]  # before the answer: `fetch` may then return it
        results = answer(found, self._on_tamper, True) if found else []
        noted = []
        for index, record in enumerate(records):
            if results[index] is VerdictResult.DONE:
                not_done.discard(record.identity)
                noted.append(record)
                self._log(record, reasons[record.identity])
                if self._on_tamper is Verdict.BLOCK:
                    results[index] = VerdictResult.TAMPERED
        for identity in not_done:
            self._noted.pop(identity, None)
        tampered = iter(results)
        others = iter(answer([one for one in processes if one.identity not in reasons], Verdict.ALLOW, False))
        return [next(tampered if one.identity in reasons else others) for one in processes], noted

    def find(self, processes: Sequence[ProcessHelper]) -> dict[Identity, str]:
        """Return what is wrong, for each process in which something is wrong."""
        waiting, reasons = deque(processes), {}

        def look() -> None:
            while True:
                try:
                    process = waiting.popleft()  # atomic
                except IndexError:
                    return
                reasons[process.identity] = self._describe(process)

        limit = TIMEOUT_S + MORE_S * len(processes)
        end = time.monotonic() + limit
        calls = [submit(look) for _ in range(min(len(processes), _THREADS))]
        while (call := _first_running(calls)) and not self._finishing and (left := end - time.monotonic()) > 0:
            call.done.wait(min(left, _SLICE_S))
        waiting.clear()
        late = f"it could not be looked into within {limit:.1f} seconds"
        if self._finishing:
            late = "it could not be looked into before the gate was closed"
        found = ((process.identity, reasons.get(process.identity, late)) for process in processes)
        return {identity: reason for identity, reason in found if reason}

    def _describe(self, process: ProcessHelper) -> str:
        try:
            return self._look(process)
        except Exception as error:
            return f"it could not be looked into: {error}"

    def _log(self, process: ProcessHelper, reason: str) -> None:
        done = "was blocked" if self._on_tamper is Verdict.BLOCK else "runs all the same"
        log_soon(WARNING, "process %d (%s) %s (on_tamper): %s", process.pid, process.image_name, done, reason)

    def _note(self, process: ProcessHelper) -> ProcessHelper:
        """Return the record that the process has after the verdict, and remember it for `mark`."""
        flags = process.flags | ProcessFlags.TAMPERED | ProcessFlags.SEEN
        noted = replace(after_verdict(process, self._on_tamper, DecidedBy.TAMPER), seen=True, flags=flags)
        self._noted[process.identity] = noted
        while len(self._noted) > _REMEMBERED:
            self._noted.popitem(last=False)
        return noted

    def mark(self, record: ProcessHelper) -> ProcessHelper:
        """Return a later record of a process, with the flag and the decision if the process was noted. The decision
        is set only if the record has the verdict of this check: a timeout of the driver may have answered first."""
        noted = self._noted.get(record.identity)
        if noted is None:
            return record
        is_done = record.decided_by is DecidedBy.CONTROLLER and record.verdict is noted.verdict
        decided_by = DecidedBy.TAMPER if is_done else record.decided_by
        return replace(record, flags=record.flags | ProcessFlags.TAMPERED, decided_by=decided_by)


def _first_running(calls: Sequence[Call[None]]) -> Call[None] | None:
    return next((call for call in calls if not call.done.is_set), None)
