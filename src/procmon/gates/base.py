"""What a gate is: a source of held process starts.

Three classes are gates: `DriverGate`, `DebugGate`, `SimulatedGate`. A `Monitor` needs no more of them than this
protocol, and the conformance suite (tests/conformance.py) holds each of them to it.
"""

from typing import Protocol, runtime_checkable

from ..records import ProcessHelper, VerdictResult

__all__ = ["Gate"]


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

    >>> import procmon
    >>> isinstance(procmon.SimulatedGate(), procmon.Gate)
    True

    A gate may also have ``terminate(process)``, which ends a process that runs: `Monitor.sweep` uses it.
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
        """Let them run. One answer for each, in order; a late or wrong verdict harms nobody.

        Raises: GateClosed.
        """

    def block(self, *processes: ProcessHelper) -> list[VerdictResult]:
        """End them before their first instruction, with exit status 0xC0000364. Otherwise like `allow`."""

    def close(self) -> None:
        """Let go all that is held (by the gate's disconnect verdict), and hold nothing more. Twice is no error."""
