"""What a gate is: a source of held process starts.

Three classes are gates: `DriverGate`, `DebugGate`, `SimulatedGate`. A `Monitor` needs no more of them than this
protocol, and the conformance suite (tests/conformance.py) holds each of them to it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from ..records import ProcessHelper, Verdict, VerdictResult
from ..util.arguments import allow_or_block

__all__ = ["AnswerListener", "AnswersHeard", "Gate", "describe_failures", "hear_answers", "resolve_failures"]

AnswerListener = Callable[[Sequence[ProcessHelper], Verdict, Sequence[VerdictResult]], object]
"""Called with the processes, the verdict and the results of a call of `allow` or `block`, before that returns."""


@runtime_checkable
class Gate(Protocol):
    """A source of held process starts. Every method may be called from any thread.

    What a gate promises:

    - A new process is held before its first instruction until `allow` or `block`, or until the gate's own limit.
    - One held process never delays another.
    - `fetch` gives each record once when it starts (`paused`, unless the gate answered it itself) and, if the gate
      reports exits, once more with ``exited`` set. It loses none. A process that the gate answered by itself
      (its own timeout, say) after it was fetched is given once more, not paused, with `verdict` and `decided_by`.
    - `close` answers all that is held, and so does the end of the program.
    - Every call but `wait` returns promptly: none of them waits for a verdict, a process or another program. A
      `Monitor` relies on it and calls a gate from the thread that decides. Only a check before a release may keep
      `allow` for some seconds.

    >>> import procmon
    >>> isinstance(procmon.SimulatedGate(), procmon.Gate)
    True
    """

    @property
    def name(self) -> str:
        r"""For people: ``\\.\ProcMonGate``, ``cmd (pid 44)``, ``simulated``."""

    @property
    def closed(self) -> bool:
        """`close` has been called."""

    @property
    def ended(self) -> bool:
        """No further process can come (the tree is gone, or the gate is closed), and all that came was fetched."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `fetch` may have something, `wake` was called or the gate ended; False when `timeout` (seconds)
        passed first. A wake-up may be spurious; none is lost."""

    def wake(self) -> None:
        """Make a `wait` in another thread (or the next one) return True at once."""

    def fetch(self) -> list[ProcessHelper]:
        """What is new, oldest first; each is marked as seen. Never waits.

        Raises: GateClosed.
        """

    def snapshot(self) -> list[ProcessHelper]:
        """All processes that the gate knows of at this moment; marks nothing.

        Raises: GateClosed.
        """

    def allow(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """Let them run. One answer for each, in order; a late or wrong verdict has no effect.

        Raises: GateClosed.
        """

    def block(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """End them before their first instruction, with exit status 0xC0000364. Otherwise like `allow`."""

    def terminate(self, process: ProcessHelper) -> None:
        """End a process that the gate knows, held or running, with exit status 0xC0000364. `Monitor.sweep` uses it.

        Raises: StaleProcess when it has gone; AccessDenied when Windows refuses; GateClosed.
        """

    def close(self) -> None:
        """Give the disconnect verdict to all that is held, and hold nothing more. Calling it twice is no error."""


class AnswersHeard:
    """A gate whose monitor hears of each verdict, and so of those that are given beside it."""

    _on_answer: AnswerListener | None = None

    def _tell(
        self, processes: Sequence[ProcessHelper], verdict: Verdict, results: list[VerdictResult]
    ) -> list[VerdictResult]:
        """Tell the listener; no lock may be held. Returns the results."""
        if self._on_answer is not None:
            self._on_answer(processes, verdict, results)
        return results


def hear_answers(gate: Gate, listener: AnswerListener | None) -> None:
    """Have a gate of this package call the listener after each verdict; None: no longer."""
    if isinstance(gate, AnswersHeard):
        gate._on_answer = listener


def resolve_failures(fail: Verdict | None, **given: Verdict | None) -> dict[str, Verdict]:
    """The verdict for each way in which a gate gets no answer: the one given, else what `fail` says.

    Where `fail` is not given either, it is ALLOW, but BLOCK for ``on_tamper``: tampering is an attack, not a failure.

    >>> resolve_failures(None, on_timeout=None, on_disconnect=Verdict.BLOCK, on_tamper=None)
    {'on_timeout': <Verdict.ALLOW>, 'on_disconnect': <Verdict.BLOCK>, 'on_tamper': <Verdict.BLOCK>}

    Raises: TypeError or ValueError for what is neither ALLOW nor BLOCK.
    """
    unset = {"on_tamper": Verdict.BLOCK} if fail is None else {}
    rest = Verdict.ALLOW if fail is None else allow_or_block("fail", fail)
    return {
        name: unset.get(name, rest) if verdict is None else allow_or_block(name, verdict)
        for name, verdict in given.items()
    }


def describe_failures(failures: Mapping[str, Verdict]) -> str:
    """For a repr: what is BLOCK where a gate gets no answer, after a comma; "" where it always allows.

    >>> describe_failures({"on_timeout": Verdict.BLOCK, "on_disconnect": Verdict.BLOCK, "on_tamper": Verdict.BLOCK})
    ', fail=block'
    >>> describe_failures({"on_timeout": Verdict.ALLOW, "on_disconnect": Verdict.BLOCK, "on_tamper": Verdict.BLOCK})
    ', on_disconnect=block'
    """
    told = {name: verdict for name, verdict in failures.items() if name != "on_tamper"}
    blocking = [name for name, verdict in told.items() if verdict is Verdict.BLOCK]
    if len(blocking) == len(told):
        return ", fail=block"
    return "".join(f", {name}=block" for name in blocking)
