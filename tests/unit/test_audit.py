"""The audit log: its lines, read back unchanged, and replayed with another policy."""

import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procmon
from audits import decision, numbers
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, AuditError, DecidedBy, Decision, Policy, ProcessHelper, audit
from procmon.audit import AuditLog
from procmon.util.line_file import LineFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_what_is_written_is_read_back(path: Path) -> None:
    written = [decision(1, BLOCK, held=0.5, audited=True), decision(2, image="c:\\späß\ud800\n.exe")]
    with AuditLog(path) as log:
        for each in written:
            log.write(each)
    assert [each.as_dict() for each in audit.read(path)] == [each.as_dict() for each in written]


def test_each_line_is_json_for_other_tools(path: Path) -> None:
    with AuditLog(path) as log:
        log.write(decision(1, BLOCK))
    [line] = path.read_text(encoding="ascii").splitlines()
    assert json.loads(line)["process"]["image_name"] == "c:\\a.exe"


def test_a_line_is_on_its_way_when_write_returns(path: Path) -> None:
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); import procmon\n"
        "log = procmon.AuditLog(sys.argv[2])\n"
        "log.write(procmon.Policy.parse('').decide(procmon.SimulatedGate().start('a.exe')))\n"
        "os._exit(9)"
    )
    source = str(Path(procmon.__file__).parents[1])
    assert subprocess.run([sys.executable, "-c", code, source, str(path)], check=False).returncode == 9
    assert len(list(audit.read(path))) == 1


def test_what_a_readers_on_exit_raises_is_the_callers_and_no_damage(path: Path) -> None:
    with AuditLog(path) as log:
        log.write_exit(replace(decision(1).process, exited=True))

    def fail(process: procmon.ProcessHelper) -> None:
        raise KeyError("of the caller's own table")

    reader = audit.read(path, on_exit=fail)
    with pytest.raises(KeyError, match="own table"):
        next(reader)
    assert reader.damaged == []


def test_a_second_run_appends(path: Path) -> None:
    for number in range(2):
        with AuditLog(path, fsync=True) as log:
            log.write(decision(number))
    assert numbers(path) == [0, 1]


def test_closing_does_not_wait_for_a_write_that_hangs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, goes_on = threading.Event(), threading.Event()
    append = LineFile.append

    def hang(file: LineFile, lines: list[str]) -> int:
        writing.set()
        assert goes_on.wait(PATIENCE)
        return append(file, lines)

    monkeypatch.setattr(LineFile, "append", hang)
    log = AuditLog(path)
    writer = threading.Thread(target=log.write, args=(decision(1),))
    writer.start()
    assert writing.wait(PATIENCE)
    log.close()
    assert writer.is_alive(), "close has waited for the write"
    assert log.closed
    goes_on.set()
    writer.join(PATIENCE)
    assert log._file.closed  # closed by the write
    assert numbers(path) == [1]


def test_a_torn_last_line_is_left_out_and_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with AuditLog(path) as log:
        log.write(decision(1))
        log.write(decision(2))
    path.write_bytes(path.read_bytes()[:-30])
    reader = audit.read(path)
    assert [each.who for each in reader] == ["1"]
    assert str(reader.damaged[0]).endswith("line 2: not a whole decision (it ends in the middle), so it is left out")
    assert "line 2" in caplog.text


def test_what_is_written_after_a_torn_line_is_not_glued_to_it(path: Path) -> None:
    path.write_bytes(b'{"process": {"pid"')
    with AuditLog(path) as log:
        log.write(decision(2))
    assert numbers(path) == [2]


@given(st.binary(max_size=200))
def test_noise_is_reported_and_hides_no_decision(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("audit") / "audit.jsonl"
    path.write_bytes(noise)
    with AuditLog(path) as log:
        log.write(decision(7))
    reader = audit.read(path)
    assert [each.who for each in reader] == ["7"]
    assert len(reader.damaged) == sum(bool(line.strip()) for line in noise.split(b"\n"))


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="there is no such audit log"):
        audit.read(tmp_path / "none")
    with pytest.raises(AuditError, match="it cannot be written"):
        AuditLog(tmp_path)
    log = AuditLog(tmp_path / "log")
    log.close()
    log.close()
    assert repr(log).endswith("log' closed>")
    with pytest.raises(AuditError, match="closed"):
        log.write(decision())
    with pytest.raises(ValueError, match="max_bytes"):
        AuditLog(tmp_path / "log", max_bytes=0)
    with pytest.raises(ValueError, match="keep"):
        AuditLog(tmp_path / "log", keep=0)
    with pytest.raises(TypeError, match="max_bytes is a whole number, 1 or more; not '16MB'"):
        AuditLog(tmp_path / "log", max_bytes="16MB")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="keep is a whole number, 1 or more; not 2.5"):
        AuditLog(tmp_path / "log", keep=2.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", ["json", "ecs"])
def test_a_log_refuses_what_is_not_of_the_kind_of_the_line_and_writes_nothing(path: Path, format: Any) -> None:
    record = decision().process
    with AuditLog(path, format=format) as log:
        with pytest.raises(TypeError, match="write takes a Decision; not .*write_exit takes the record of an exit"):
            log.write(record)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="write takes a Decision"):
            log.write_some([decision(), record])  # type: ignore[list-item]
        with pytest.raises(TypeError, match="write_exit takes the record of an exit; not .*write takes a Decision"):
            log.write_exit(decision())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="write_exit .* has not exited"):
            log.write_exit(record)
        with pytest.raises(TypeError, match="write_start takes the Monitor"):
            log.write_start(procmon.SimulatedGate())  # type: ignore[arg-type]
    assert path.read_text("utf-8") == ""


def test_an_exit_that_on_exit_passes_to_write_is_reported(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gate = procmon.SimulatedGate()
    with AuditLog(path) as log, procmon.Monitor(gate) as monitor:
        monitor.on_exit(log.write)  # type: ignore[arg-type]
        process = gate.start("a.exe")
        assert gate.verdict_of(process) is ALLOW
        gate.exit(process)
        until(lambda: monitor.statistics.callback_errors == 1, "the error")
    assert "write_exit takes the record of an exit" in caplog.text


def test_ahead_no_verdict_is_out_whose_line_is_not_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = procmon.SimulatedGate()
    allow, seen = gate.allow, []

    def look_then_allow(*processes: ProcessHelper) -> list[procmon.VerdictResult]:
        seen.append([each.process.name for each in audit.read(path)])
        return allow(*processes)

    monkeypatch.setattr(gate, "allow", look_then_allow)
    with AuditLog(path, write_ahead=True) as log, procmon.Monitor(gate, audit=log) as monitor:
        for image in ("a.exe", "b.exe"):
            gate.verdict_of(gate.start(image))
        monitor.stop()
    assert seen == [["a.exe"], ["a.exe", "b.exe"]]
    assert [(each.process.name, each.result) for each in audit.read(path)] == [("a.exe", None), ("b.exe", None)]


def test_ahead_a_verdict_that_came_too_late_has_a_second_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = procmon.SimulatedGate()
    with AuditLog(path, write_ahead=True) as log, procmon.Monitor(gate, audit=log) as monitor:
        monkeypatch.setattr(gate, "allow", lambda *_: [procmon.VerdictResult.STALE])
        gate.start("a.exe")
        monitor.stop()
    with AuditLog(path, write_ahead=True) as log, procmon.Monitor(procmon.SimulatedGate(), audit=log) as monitor:
        other = monitor.gate
        assert isinstance(other, procmon.SimulatedGate)
        other.start("exempt.exe", flags=procmon.ProcessFlags.EXEMPT)
        monitor.stop()
    assert audit.replay(path, Policy.parse('default = "block"')).decisions == 2, "each is one decision"
    answers = [(each.process.name, each.result) for each in audit.read(path)]
    assert answers[:2] == [("a.exe", None), ("a.exe", procmon.VerdictResult.STALE)]
    assert [name for name, _ in answers[2:]] == [
        "exempt.exe"
    ]  # the gate decided it, and the monitor learns it only now


@pytest.mark.parametrize("write_ahead", [False, True])
def test_a_verdict_before_the_monitor_has_the_record_has_its_line_too(path: Path, write_ahead: bool) -> None:
    gate = procmon.SimulatedGate()
    done = None if write_ahead else procmon.VerdictResult.DONE
    expected = [("a.exe", done)]
    with AuditLog(path, write_ahead=write_ahead) as log:
        monitor = procmon.Monitor(gate, audit=log)
        monitor.block(gate.start("a.exe"))
        until(lambda: path.exists() and len(list(audit.read(path))) == 1, "the line")
        with pytest.raises(procmon.NotHeld):
            monitor.block(*gate.running_before("b.exe"))
        if write_ahead:  # the second line says that the first is not true
            expected += [("b.exe", None), ("b.exe", procmon.VerdictResult.NOT_HELD)]
        monitor.stop()
    assert [(each.process.name, each.result) for each in audit.read(path)] == expected


def test_a_monitor_writes_to_it_after_the_verdict(path: Path) -> None:
    gate = procmon.SimulatedGate()
    with AuditLog(path) as log, procmon.Monitor(gate, default=BLOCK, audit=log) as monitor:
        process = gate.start("c:/a.exe")
        assert gate.verdict_of(process) is BLOCK
        monitor.stop()
    [written] = audit.read(path)
    assert (written.process, written.verdict, written.result) == (process, BLOCK, procmon.VerdictResult.DONE)


class TestReplay:
    def log(self, path: Path, *decisions: Decision) -> None:
        with AuditLog(path) as log:
            for each in decisions:
                log.write(each)

    def test_it_counts_what_would_change_and_says_which(self, path: Path) -> None:
        self.log(path, decision(1, ALLOW), decision(2, ALLOW, "c:\\b.exe"), decision(3, ALLOW), decision(4, BLOCK))
        replay = audit.replay(path, Policy.parse("[[rule]]\nname = 'no a'\nimage = 'a.exe'\nverdict = 'block'"))
        assert (replay.decisions, len(replay.changes), replay.same) == (4, 2, 2)
        assert str(replay) == (
            "4 decisions: 2 would change, 2 would not\n      2 x  allow -> block  c:\\a.exe by rule no a"
        )

    def test_a_decision_that_was_written_ahead_has_its_result(self, path: Path) -> None:
        first, parent = decision(1), decision(2, image="c:\\word.exe")
        too_late = replace(first, result=procmon.VerdictResult.ANSWERED)
        self.log(path, first, parent, too_late)
        changes = audit.replay(path, Policy.parse("default = 'block'")).changes
        assert [each.then for each in changes] == [too_late, parent]

    def test_leaving_audit_mode_is_a_change(self, path: Path) -> None:
        self.log(path, decision(1, BLOCK, audited=True))
        replay = audit.replay(path, Policy.parse("default = 'block'"))
        assert "block (audit) -> block  c:\\a.exe by default" in str(replay)

    def test_to_be_asked_again_is_none(self, path: Path) -> None:
        process = decision(1).process
        self.log(path, Decision(process=process, verdict=BLOCK, by=DecidedBy.USER))
        assert audit.replay(path, Policy.parse("default = 'ask'")).same == 1
        assert audit.replay(path, Policy.parse("default = 'allow'")).same == 0

    def test_a_question_that_an_audit_would_not_ask_is_a_change(self, path: Path) -> None:
        self.log(path, Decision(process=decision(1).process, verdict=BLOCK, by=DecidedBy.USER))
        assert audit.replay(path, Policy.parse("mode = 'audit'\ndefault = 'ask'")).same == 0

    def test_a_question_without_a_terminal_is_none_either(self, path: Path) -> None:
        process, by = decision(1).process, DecidedBy.DEFAULT
        self.log(path, Decision(process=process, verdict=BLOCK, by=by, reason=audit.NO_TERMINAL))
        assert audit.replay(path, Policy.parse("default = 'ask'")).same == 1
        assert audit.replay(path, Policy.parse("default = 'allow'")).same == 0

    def test_parents_come_from_the_log(self, path: Path) -> None:
        parent = decision(1, image="c:\\word.exe")
        child = ProcessHelper(pid=5, parent_pid=parent.process.pid, image_name="c:\\cmd.exe", start_key=9)
        self.log(path, parent, Decision(process=child, verdict=ALLOW, by=DecidedBy.DEFAULT))
        replay = audit.replay(path, Policy.parse("[[rule]]\nparent = 'word.exe'\nverdict = 'ask'"))
        assert [(change.then.process, change.now.verdict) for change in replay.changes] == [(child, DEFER)]

    @pytest.mark.parametrize(
        "facts", [{"ancestor": ["c:\\cmd.exe", "c:\\word.exe"]}, {"parent": "c:\\word.exe"}], ids=["ancestor", "parent"]
    )
    @pytest.mark.parametrize("logged_parent", [True, False])
    def test_ancestors_that_were_known_at_the_time_come_from_the_log_too(
        self, path: Path, logged_parent: bool, facts: dict[str, object]
    ) -> None:
        """They started before the log began, or the pid is that of a later process in the log."""
        cmd = decision(1, image="c:\\cmd.exe")
        child = ProcessHelper(pid=5, parent_pid=cmd.process.pid, image_name="c:\\ps.exe", start_key=9)
        then = Decision(process=child, verdict=BLOCK, by=DecidedBy.RULE, facts=facts)
        self.log(path, *([cmd] if logged_parent else []), then)
        [fact] = facts
        replay = audit.replay(path, Policy.parse(f"[[rule]]\n{fact} = 'word.exe'\nverdict = 'block'"))
        assert (len(replay.changes), replay.missing.get(fact, 0)) == (0, int(logged_parent))

    def test_what_the_log_does_not_hold_is_not_looked_up_but_said(self, path: Path) -> None:
        def never(_: object) -> NoReturn:
            raise AssertionError("it is another process by now")

        self.log(path, decision(1))
        policy = Policy.parse("[[rule]]\nuser = 'x'\nverdict = 'block'", details=never, lookup=never)
        replay = audit.replay(path, policy)
        assert replay.missing == {"user": 1}
        assert "not in the log: user, which rules ask of 1 processes" in str(replay)
        assert policy.hits == {"1": 0, "default": 0}

    def test_the_beginning_of_a_command_line_is_not_all_of_it(self, path: Path) -> None:
        flags, line = procmon.ProcessFlags.COMMAND_LINE_TRUNCATED, "x" * 4096
        process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe", command_line=line, flags=flags)
        whole = Decision(process=process, verdict=ALLOW, by=DecidedBy.DEFAULT, facts={"command_line": line + " -evil"})
        self.log(path, replace(whole, facts={}), whole)
        result = audit.replay(path, Policy.parse("[[rule]]\ncommand_line.contains = '-evil'\nverdict = 'block'"))
        assert (len(result.changes), result.missing) == (1, {"command_line": 1})

    def test_a_rules_end_is_compared_with_the_time_of_the_decision(self, path: Path) -> None:
        """Not with the time of the replay, where the record has no time."""
        self.log(path, replace(decision(1), at=datetime(2020, 1, 1, tzinfo=UTC)))
        text = "[[rule]]\nimage = 'a.exe'\nverdict = 'block'\nuntil = {}-01-01T00:00:00Z"
        assert len(audit.replay(path, Policy.parse(text.format(2021))).changes) == 1
        assert len(audit.replay(path, Policy.parse(text.format(2019))).changes) == 0


@pytest.mark.parametrize("value", ["Infinity", "NaN", "1e999"])
def test_a_time_that_is_no_number_is_damage(tmp_path: Path, value: str) -> None:
    path = tmp_path / "audit.jsonl"
    with audit.AuditLog(path) as log:
        log.write(decision(1))
    line = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r'"held_for":[0-9.]+', f'"held_for":{value}', line), encoding="utf-8")
    reader = audit.read(path)
    assert list(reader) == []
    assert "no number of seconds" in reader.damaged[0].reason


def test_an_endless_time_is_written_as_json() -> None:
    process = replace(procmon.SimulatedGate().start("a.exe"), hold_left=float("inf"))
    assert json.loads(json.dumps(process.as_dict(), allow_nan=False))["hold_left"] is None


def test_a_subclass_that_overrides_write_sees_each_decision(path: Path) -> None:
    seen = []

    class Seeing(AuditLog):
        def write(self, decision: Decision, /) -> None:
            seen.append(decision.who)
            super().write(decision)

    with Seeing(path) as log:
        assert log.write_some([decision(1), decision(2)]) == 1
    assert seen == ["1"]


def test_the_start_of_a_session_says_which_verdicts_of_failure_are_in_force(path: Path) -> None:
    monitor = procmon.Monitor(procmon.SimulatedGate(fail=BLOCK), fail=BLOCK, on_deadline=ALLOW)
    with AuditLog(path) as log:
        log.write_start(monitor)
        log.write(decision(1))
    line = json.loads(path.read_text().splitlines()[0])
    assert (line["event"], line["gate"]) == ("start", "simulated")
    assert (line["failures"]["on_error"], line["failures"]["on_deadline"]) == ("block", "allow")
    assert line["failures"]["on_disconnect"] == "block"
    reader = audit.read(path)
    assert [one.who for one in reader] == ["1"] and not reader.damaged


def damaged_line(path: Path, line: str, old: str, new: str) -> str:
    """The reason for which a line with this change is left out."""
    assert old in line
    path.write_text(line.replace(old, new) + "\n" + line + "\n", encoding="utf-8")
    reader = audit.read(path)
    assert len(list(reader)) == 1
    [damage] = reader.damaged
    return damage.reason


@pytest.mark.parametrize("number", ["1" + "0" * 400, "-1" + "0" * 400, "1e308", "-1e300"])
def test_a_number_of_seconds_that_no_process_can_last_is_damage(path: Path, number: str) -> None:
    line = json.dumps(decision(1).as_dict())
    assert "no number of seconds" in damaged_line(path, line, '"held_for": 0.0', f'"held_for": {number}')


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_utc_does_not_have_is_damage(path: Path, time: str) -> None:
    made = decision(1).as_dict()
    line = json.dumps(made)
    assert "outside the years 1 to 9999" in damaged_line(path, line, str(made["at"]), time)
