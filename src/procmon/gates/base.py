"""The protocol of a gate: a source of held process starts.

Three classes are gates: `DriverGate`, `DebugGate`, `SimulatedGate`. A `Monitor` uses only this protocol of a gate. The
conformance suite (tests/conformance.py) tests each class against the protocol.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ..records import ProcessHelper, Verdict, VerdictResult
from ..util.arguments import allow_or_block

__all__ = ["AnswerListener", "AnswersHeard", "Gate", "describe_failures", "hear_answers", "resolve_failures"]

AnswerListener = Callable[[Sequence[ProcessHelper], Verdict, Sequence[VerdictResult]], object]
"""Called with the processes, the verdict and the results of an `allow` or `block` call, before that call returns."""


@runtime_checkable
class Gate(Protocol):
    """A source of held process starts. Every method may be called from any thread.

    A gate guarantees:

    - A new process is held before its first instruction until `allow` or `block`, or until the gate's own limit.
    - One held process never delays another.
    - `fetch` returns each process once when it starts (`paused`, unless the gate itself has answered it) and, if the
      gate reports exits, once more with ``exited`` set. No record is lost. A process that the gate itself answers
      after it was fetched (by its own timeout, say) is returned once more, not paused, with `verdict` and `decided_by`.
    - `close` answers all held processes, and so does the end of the program.
    - Every call except `wait` returns promptly: it waits for no verdict, no process and no other program. A `Monitor`
      relies on this and calls the gate from its deciding thread. Only a check before a release can delay `allow`, by
      some seconds.

    >>> import procmon
    >>> isinstance(procmon.SimulatedGate(), procmon.Gate)
    True
    """

    @property
    def name(self) -> str:
        r"""A name for people: ``\\.\ProcMonGate``, ``cmd (pid 44)``, ``simulated``."""

    @property
    def closed(self) -> bool:
        """`close` has been called."""

    @property
    def ended(self) -> bool:
        """No further process can start (the tree is gone, or the gate is closed), and every record was fetched."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `fetch` may have records, `wake` was called or the gate ended; False when `timeout` (seconds)
        passed first. A wake-up may be spurious; none is lost."""

    def wake(self) -> None:
        """Make a `wait` in another thread (or the next one) return True at once."""

    def fetch(self) -> list[ProcessHelper]:
        """Return the new records, oldest first, and mark their processes as seen. Never blocks.

        Raises: GateClosed.
        """

    def snapshot(self) -> list[ProcessHelper]:
        """Return all processes that the gate knows at this moment; marks none as seen.

        Raises: GateClosed.
        """

    def allow(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """Release the processes. Returns one result for each, in order; a late or wrong verdict has no effect.

        Raises: GateClosed.
        """

    def block(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """End the processes before their first instruction, with exit status 0xC0000364. Otherwise like `allow`."""

    def terminate(self, process: ProcessHelper) -> None:
        """End a process that the gate knows, held or running, with exit status 0xC0000364. `Monitor.sweep` uses it.

        Raises: StaleProcess when it has gone; AccessDenied when Windows refuses; GateClosed.
        """

    def close(self) -> None:
        """Give the disconnect verdict to all held processes, and hold no more. Idempotent."""


class AnswersHeard:
    """A gate that calls a listener after each verdict, so that its monitor learns of verdicts by other callers."""

    _on_answer: AnswerListener | None = None

    def _notify(
        self, processes: Sequence[ProcessHelper], verdict: Verdict, results: list[VerdictResult]
    ) -> list[VerdictResult]:
        """Call the listener and return the results. The caller must hold no lock."""
        if self._on_answer is not None:
            self._on_answer(processes, verdict, results)
        return results


def hear_answers(gate: Gate, listener: AnswerListener | None) -> None:
    """Make a gate of this package call `listener` after each verdict; None removes the listener."""
    if isinstance(gate, AnswersHeard):
        gate._on_answer = listener


def resolve_failures(fail: Verdict | None, **given: Verdict | None) -> dict[str, Verdict]:
    """Return the verdict for each way in which a gate gets no answer: the given verdict, or else `fail`.

    Without `fail` the verdict is ALLOW, but BLOCK for ``on_tamper``: tampering is an attack, not a failure.

    >>> resolve_failures(None, on_timeout=None, on_disconnect=Verdict.BLOCK, on_tamper=None)
    {'on_timeout': <Verdict.ALLOW>, 'on_disconnect': <Verdict.BLOCK>, 'on_tamper': <Verdict.BLOCK>}

    Raises: TypeError or ValueError for a value that is neither ALLOW nor BLOCK.
    """
    unset = {"on_tamper": Verdict.BLOCK} if fail is None else {}
    rest = Verdict.ALLOW if fail is None else allow_or_block("fail", fail)
    return {
        name: unset.get(name, rest) if verdict is None else allow_or_block(name, verdict)
        for name, verdict in given.items()
    }


def describe_failures(failures: Mapping[str, Verdict]) -> str:
    """For a repr: the options with which a gate blocks when it gets no answer, each after a comma; "" without any.

    >>> describe_failures({"on_timeout": Verdict.BLOCK, "on_disconnect": Verdict.BLOCK, "on_tamper": Verdict.BLOCK})
    ', fail=block'
    >>> describe_failures({"on_timeout": Verdict.ALLOW, "on_disconnect": Verdict.BLOCK, "on_tamper": Verdict.BLOCK})
    ', on_disconnect=block'
    """
    shown = {name: verdict for name, verdict in failures.items() if name != "on_tamper"}
    blocking = [name for name, verdict in shown.items() if verdict is Verdict.BLOCK]
    if len(blocking) == len(shown):
        return ", fail=block"
    return "".join(f", {name}=block" for name in blocking)
