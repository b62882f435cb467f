"""The examples for log servers: the data that arrives, and that no name can break a line."""

import dataclasses
import json
import os
import socket
import subprocess
import sys

import pytest

import procmon
from examples.samples import AS_SCRIPT, EXAMPLES, ROOT


def test_a_syslog_server_receives_one_datagram_for_each_decision() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)
        environment = os.environ | {
            "SYSLOG_SERVER": f"127.0.0.1:{server.getsockname()[1]}",
            "PYTHONPATH": str(ROOT / "src"),
        }
        subprocess.run([sys.executable, "-c", AS_SCRIPT, str(EXAMPLES / "siem_syslog.py")], env=environment, check=True)
        lines = [server.recv(4096).decode() for _ in range(4)]
    assert [line.partition(" ")[0] for line in lines] == [
        "<14>procmon:",
        "<14>procmon:",
        "<12>procmon:",
        "<14>procmon:",
    ]


def test_no_name_can_break_out_of_a_syslog_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import siem_syslog

    sent: list[str] = []
    monkeypatch.setattr(siem_syslog.SyslogSink, "send", lambda sink, line: sent.append(line))
    process = procmon.SimulatedGate().start("c:/a\n<8>procmon: allow.exe")
    for by, who in ((procmon.DecidedBy.DEFAULT, ""), (procmon.DecidedBy.RULE, "a rule\n<8>procmon: allow b.exe")):
        decision = procmon.Decision(process=process, verdict=procmon.ALLOW, by=by, who=who)
        siem_syslog.SyslogSink().write(decision)
    assert len(sent) == 2 and not any("\n" in line for line in sent)


def test_a_line_says_that_audit_mode_blocked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import siem_syslog

    sent: list[str] = []
    monkeypatch.setattr(siem_syslog.SyslogSink, "send", lambda sink, line: sent.append(line))
    process = procmon.SimulatedGate().start("c:/a.exe")
    decision = procmon.Decision(
        process=process, verdict=procmon.BLOCK, by=procmon.DecidedBy.RULE, who="trial", audited=True
    )
    siem_syslog.SyslogSink().write(decision)
    assert sent == ["<12>procmon: would block a.exe pid=1000 parent=4 by=rule trial"]


def test_an_ocsf_event_has_what_its_class_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    """Process Activity of https://schema.ocsf.io/1.3.0/classes/process_activity: required fields and types."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import siem_ocsf

    process = procmon.SimulatedGate().start("c:/tools/a.exe", parent_pid=4)
    decision = procmon.Decision(process=process, verdict=procmon.BLOCK, by=procmon.DecidedBy.RULE, who="no tools")
    event = json.loads(json.dumps(siem_ocsf.ocsf(decision)))
    required = {
        "activity_id": int,
        "actor": dict,
        "category_uid": int,
        "class_uid": int,
        "device": dict,
        "metadata": dict,
        "process": dict,
        "severity_id": int,
        "time": int,
        "type_uid": int,
    }
    assert {name: type(event.get(name)) for name in required} == required
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert {"product", "version"} <= event["metadata"].keys()
    assert event["disposition_id"] == 2
    event = siem_ocsf.ocsf(dataclasses.replace(decision, audited=True))
    assert (event["disposition"], event["status_detail"]) == ("Allowed", "would block: rule no tools")
