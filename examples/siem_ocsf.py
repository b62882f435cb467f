r"""Write decisions in the Open Cybersecurity Schema Framework (https://schema.ocsf.io): one JSON object a line.

Each is a Process Activity (1007), activity Launch (1), Allowed (1) or Blocked (2). Amazon Security Lake reads them.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator.

    $ python examples/siem_ocsf.py
    {"class_uid": 1007, "category_uid": 1, "activity_id": 1, "type_uid": 100701, "time": ...
    {"class_uid": 1007, ...
    {"class_uid": 1007, ..."disposition": "Blocked", "action_id": 2, ..."name": "whoami.exe"...
    {"class_uid": 1007, ...
"""

import json
import socket
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon


def ocsf(decision: procmon.Decision) -> dict[str, object]:
    """The event of one decision."""
    process, blocked = decision.process, decision.verdict is procmon.BLOCK and not decision.audited
    return {
        "class_uid": 1007,
        "category_uid": 1,
        "activity_id": 1,
        "type_uid": 100701,
        "time": round(decision.at.timestamp() * 1000),
        "severity_id": 3 if blocked else 1,
        "disposition_id": 2 if blocked else 1,
        "disposition": "Blocked" if blocked else "Allowed",
        "action_id": 2 if blocked else 1,
        "status_detail": f"{'would ' * decision.audited}{decision.verdict.value}: {decision.by.value} {decision.who}",
        "metadata": {
            "version": "1.3.0",
            "profiles": ["host", "security_control"],
            "product": {"name": "procmon-gate", "vendor_name": "procmon", "version": procmon.__version__},
        },
        "device": {"hostname": socket.gethostname(), "type_id": 0},
        "actor": {"process": {"pid": process.creator_pid or process.parent_pid}},
        "process": {
            "pid": process.pid,
            "uid": f"{process.pid}-{process.start_key}",
            "name": process.name,
            "cmd_line": process.command_line or "",
            "file": {"name": process.name, "path": process.image_name, "type_id": 1},
            "parent_process": {"pid": process.parent_pid},
        },
    }


class OcsfSink:
    """A sink that prints the events."""

    def write(self, decision: procmon.Decision) -> None:
        """Called for each decision."""
        print(json.dumps(ocsf(decision)))


def main(gate: procmon.Gate) -> None:
    """Decide until the gate has ended."""
    monitor = procmon.Monitor(gate, audit=OcsfSink())
    monitor.subscribe(lambda process: procmon.BLOCK, match="whoami.exe")
    with monitor:
        monitor.wait()


if __name__ == "__main__":
    _gate.run(main, __doc__)
