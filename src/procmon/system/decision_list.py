"""Decisions that show themselves as a table in a notebook."""

from ..records import Decision
from ..util.html_table import html_table
from ..util.printable import printable

__all__ = ["DecisionList"]


class DecisionList(list[Decision]):
    r"""A list of decisions, such as `Monitor.history`; in a notebook it shows itself as a table.

    >>> import procmon
    >>> with procmon.Monitor(procmon.SimulatedGate(), default=procmon.BLOCK) as monitor:
    ...     process = monitor.gate.start("a.exe")
    >>> "<td>block</td>" in procmon.DecisionList(monitor.history)._repr_html_()
    True
    """

    def _repr_html_(self) -> str:
        rows = (
            (
                one.at.astimezone().strftime("%H:%M:%S"),
                one.verdict.value + (" (audit)" if one.audited else ""),
                one.process.pid,
                printable(one.process.image_name),
                printable(f"{one.by.value} {one.who}".rstrip()),
                f"{one.held_for:.3f}",
            )
            for one in self
        )
        return html_table(("AT", "VERDICT", "PID", "IMAGE", "BY", "HELD FOR (S)"), rows)
