r"""Send decisions to a syslog server: a sink of ten lines over the standard library's SysLogHandler.

A monitor writes to sinks in threads of its own, so a slow or missing server delays no verdict. Blocks are warnings, and
so is what a rule in audit mode would block; failures are errors. Without the environment variable SYSLOG_SERVER
(HOST:PORT) the lines are printed.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator.

    $ python examples/siem_syslog.py
    <14>procmon: allow cmd.exe pid=1000 parent=4 by=default
    <14>procmon: allow hostname.exe pid=1004 parent=1000 by=default
    <12>procmon: block whoami.exe pid=1008 parent=1000 by=callback no_whoami
    <14>procmon: allow hostname.exe pid=1012 parent=1000 by=default
"""

import os
import socket
import sys
from logging.handlers import SysLogHandler
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon

FAILURES = {procmon.DecidedBy.ERROR, procmon.DecidedBy.DEADLINE, procmon.DecidedBy.GATE_TIMEOUT}
SERVER = os.environ.get("SYSLOG_SERVER", "")  # HOST:PORT


class SyslogSink:
    """A sink that sends one datagram for each decision (RFC 3164: a priority, then the text)."""

    def write(self, decision: procmon.Decision) -> None:
        """Called for each decision."""
        severity = SysLogHandler.LOG_INFO
        if decision.verdict is procmon.BLOCK:
            severity = SysLogHandler.LOG_WARNING
        if decision.by in FAILURES:
            severity = SysLogHandler.LOG_ERR
        priority = SysLogHandler.LOG_USER << 3 | severity
        process = decision.process
        name, who = (ascii(text)[1:-1] for text in (process.name, decision.who))  # so that neither has a line break
        who = f"{decision.by.value} {who}".rstrip()
        would = "would " if decision.audited else ""  # audit mode: the process ran
        text = f"{would}{decision.verdict.value} {name} pid={process.pid} parent={process.parent_pid} by={who}"
        self.send(f"<{priority}>procmon: {text}")

    def send(self, line: str) -> None:
        """Send the line, or print it without a server."""
        if not SERVER:
            print(line)
            return
        host, _, port = SERVER.rpartition(":")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
            connection.sendto(line.encode(), (host, int(port)))


def main(gate: procmon.Gate) -> None:
    """Decide until the gate has ended."""
    monitor = procmon.Monitor(gate, audit=SyslogSink())

    @monitor.subscribe(match="whoami.exe")
    def no_whoami(process: procmon.ProcessHelper) -> procmon.Verdict:
        return procmon.BLOCK

    with monitor:
        monitor.wait()


if __name__ == "__main__":
    _gate.run(main, __doc__)
