r"""Embed the monitor in a tool with its own logging: it gets the decisions, and procmon's own log records.

procmon logs to the logger "procmon" and configures nothing. An error in a callback is logged with its traceback, and
the process gets `on_error`; here a faulty callback shows it.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator.

    $ python examples/embed_with_logging.py
    ...ERROR   procmon: callback careless failed on <ProcessHelper 1004 ...
    IndexError: list index out of range
    ...WARNING tool.starts: block hostname.exe by error careless
    ...
    INFO    tool: 1 allowed, 3 blocked, 2 errors
"""

import logging
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon

log = logging.getLogger("tool")


class DecisionLog:
    """An audit that writes decisions to the tool's own log."""

    write_ahead = True  # each line is written before its verdict is sent; without it the program may run first

    def write(self, decision: procmon.Decision) -> None:
        """Called for each decision."""
        level = logging.WARNING if decision.verdict is procmon.BLOCK else logging.INFO
        verdict, by, who = decision.verdict.value, decision.by.value, decision.who
        logging.getLogger("tool.starts").log(level, "%s", f"{verdict} {decision.process.name} by {by} {who}".rstrip())


def main(gate: procmon.Gate) -> None:
    """Decide until the gate has ended."""
    monitor = procmon.Monitor(gate, on_error=procmon.BLOCK, audit=DecisionLog())

    @monitor.subscribe(match="whoami.exe")
    def strict(process: procmon.ProcessHelper) -> procmon.Verdict:
        return procmon.BLOCK

    @monitor.subscribe(match="hostname.exe")
    def careless(process: procmon.ProcessHelper) -> procmon.Verdict:
        first_argument = (process.command_line or "").split()[1]  # not every command line has one
        return procmon.BLOCK if first_argument.startswith("-") else procmon.ALLOW

    with monitor:
        monitor.wait()
    counts = monitor.statistics
    log.info("%d allowed, %d blocked, %d errors", counts.allowed, counts.blocked, counts.callback_errors)


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)-7s %(name)s: %(message)s")
    _gate.run(main, __doc__)
