"""The audit log: no line lost or merged, read back unchanged, replayed with another policy."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procmon
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DEFER, AuditError, DecidedBy, Decision, Policy, ProcessHelper, audit
from procmon.audit import AuditLog
from procmon.util import line_file
from procmon.util.line_file import LineFile


def decision(
    number: int = 0,
    verdict: procmon.Verdict = ALLOW,
    image: str = "c:\\a.exe",
    held: float = 0.0,
    audited: bool = False,
) -> Decision:
    process = ProcessHelper(pid=1000 + 4 * number, parent_pid=4, image_name=image, start_key=number + 1)
    by = DecidedBy.RULE
    return Decision(process=process, verdict=verdict, by=by, who=str(number), held_for=held, audited=audited)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def numbers(path: Path) -> list[int]:
    return [int(each.who) for each in audit.read(path)]


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
        log.write_exit(decision(1).process)

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


def test_a_closed_log_has_no_file_open(path: Path) -> None:
    with AuditLog(path) as log:
        log.write(decision(1))
        assert not log._file.closed
    assert log._file.closed


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


def test_it_rotates_by_size_and_is_read_oldest_first(path: Path) -> None:
    with AuditLog(path, max_bytes=3000, keep=3) as log:
        for number in range(40):
            log.write(decision(number))
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"]
    assert all(file.stat().st_size <= 3000 for file in path.parent.iterdir())
    kept = numbers(path)
    assert kept == list(range(40 - len(kept), 40))
    assert len(kept) > 10


def test_a_line_larger_than_a_file_is_kept_whole(path: Path) -> None:
    with AuditLog(path, max_bytes=10, keep=9) as log:
        for number in range(3):
            log.write(decision(number))
    assert numbers(path) == [0, 1, 2]


def test_where_renaming_is_refused_and_a_handler_of_the_log_raises_each_line_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("no such window")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "it is open in another program")

    logger, broken = logging.getLogger("procmon"), Broken()
    monkeypatch.setattr(os, "replace", refuse)
    logger.addHandler(broken)
    try:
        with AuditLog(path, max_bytes=10) as log:
            for number in range(3):
                log.write(decision(number))
    finally:
        logger.removeHandler(broken)
    assert numbers(path) == [0, 1, 2]


def test_where_renaming_is_refused_the_file_grows_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "it is open in another program")

    with AuditLog(path, max_bytes=1000) as log, caplog.at_level(logging.WARNING, "procmon"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            for number in range(10):
                log.write(decision(number))
        assert caplog.text.count("cannot be renamed") == 1
        log.write(decision(10))
    assert numbers(path) == list(range(11))
    assert path.with_name("audit.jsonl.1").exists()


def test_old_files_outlive_any_number_of_refusals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def refuse_the_newest(source: Path, target: Path) -> None:
        if source == path:
            raise PermissionError(errno.EACCES, "it is open in another program")
        replace(source, target)

    with AuditLog(path, max_bytes=1500, keep=9) as log:
        for number in range(8):
            log.write(decision(number))
        before = len(list(path.parent.iterdir()))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse_the_newest)
            for number in range(8, 30):
                log.write(decision(number))
            assert numbers(path) == list(range(30))  # read over the gap that the refusal has left
        for number in range(30, 34):
            log.write(decision(number))
    assert numbers(path) == list(range(34))
    assert before >= 3


def test_a_file_that_cannot_be_opened_again_is_opened_by_the_next_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AuditError("it is open in another program")

    with AuditLog(path, max_bytes=10) as log:
        log.write(decision(0))
        with monkeypatch.context() as patch:
            patch.setattr(log._file, "_open", refuse)
            for number in (1, 2):
                with pytest.raises(AuditError, match="another program"):
                    log.write(decision(number))
        log.write(decision(3))
    assert numbers(path) == [0, 3]


@pytest.mark.parametrize("after", range(5))
def test_a_log_that_rotates_while_it_is_read_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    real_open, opened = Path.open, 0

    def open_and_rotate(file: Path, mode: str) -> object:
        nonlocal opened
        if opened == after:
            log.write(decision(5))
        opened += 1
        return real_open(file, mode)

    with AuditLog(path, max_bytes=10, keep=9) as log:
        for number in range(5):
            log.write(decision(number))
        reader = audit.read(path)
        monkeypatch.setattr(Path, "open", open_and_rotate)
        found = [int(each.who) for each in reader]
    assert found[:5] == [0, 1, 2, 3, 4]  # a line written meanwhile may be among them


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


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(FileIO):
        full = False

        def write(self, data: bytes) -> int:  # type: ignore[override]  # of all buffers, bytes are what comes
            if FullDisk.full and len(data) < 100:
                raise OSError(errno.ENOSPC, "no space left on device")
            return super().write(data[: len(data) - 50] if FullDisk.full else data)

    monkeypatch.setattr(line_file, "FileIO", FullDisk)
    with AuditLog(path) as log:
        log.write(decision(1))
        FullDisk.full = True
        with pytest.raises(OSError, match="no space left"):
            log.write(decision(2))
        FullDisk.full = False
        log.write(decision(3))
    reader = audit.read(path)
    assert ([each.who for each in reader], reader.damaged) == (["1", "3"], [])


def test_a_log_with_half_a_line_on_a_full_disk_cannot_be_opened_and_the_error_names_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class FullDisk(FileIO):
        def __init__(self, path: Path, mode: str) -> None:
            super().__init__(path, mode)
            opened.append(self)

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    path.write_bytes(b'{"process": {"pid": 8,')
    monkeypatch.setattr(line_file, "FileIO", FullDisk)
    with pytest.raises(AuditError, match="it cannot be written: no space left on device") as caught:
        AuditLog(path)
    assert str(path) in str(caught.value)
    assert [file.closed for file in opened] == [True]


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


def test_a_log_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    """Rotate like another program; Windows lets no program remove or rename a file that is open here."""
    path = tmp_path / "audit.jsonl"
    with audit.AuditLog(path) as log:
        log.write(decision(1))
        if sys.platform == "win32":
            with pytest.raises(PermissionError):
                path.unlink()
            return
        path.unlink()
        log.write(decision(2))
        path.rename(tmp_path / "elsewhere")
        log.write(decision(3))
    assert [one.who for one in audit.read(path)] == ["3"]
    assert [one.who for one in audit.read(tmp_path / "elsewhere")] == ["2"]


@pytest.mark.promise("A log that rotates is read completely and in order", gate="AuditLog")
def test_a_log_that_rotates_while_it_is_opened_is_read_in_order_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log rotates twice at each step of the opening."""
    log = audit.AuditLog(tmp_path / "audit.jsonl", max_bytes=1, keep=100)
    for number in range(1, 6):
        log.write(decision(number))
    written, opens = list(range(1, 6)), 0
    whole = Path.open

    def open_and_rotate(path: Path, *args: Any, **options: Any) -> Any:
        nonlocal opens
        file = whole(path, *args, **options)
        opens += 1
        if opens <= 8 and sys.platform != "win32":  # Windows renames no open file
            for _ in range(2):
                written.append(written[-1] + 1)
                log.write(decision(written[-1]))
        return file

    monkeypatch.setattr(Path, "open", open_and_rotate)
    numbers = [int(one.who) for one in audit.read(log.path)]
    assert numbers == written[: len(numbers)], "oldest first, and none is missing"
    assert len(numbers) >= 5
    log.close()


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


def test_several_lines_are_written_at_once_as_many_as_fit(path: Path) -> None:
    line = len(json.dumps(decision(1).as_dict(), separators=(",", ":"))) + 1
    with AuditLog(path, max_bytes=3 * line + 10, keep=9) as log:
        left, calls = [decision(number) for number in range(1, 8)], []
        while left:
            calls.append(log.write_some(left))
            left = left[calls[-1] :]
    assert calls == [3, 3, 1]
    assert [one.who for one in audit.read(path)] == [str(number) for number in range(1, 8)]
    assert all(file.stat().st_size <= 3 * line + 10 for file in path.parent.iterdir())


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


def test_a_copy_with_a_date_in_its_name_costs_no_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number up to the highest was tried: minutes for audit.jsonl.20260131."""
    with AuditLog(path) as log:
        log.write(decision(2))
    copy = path.with_name("audit.jsonl.20260131")
    copy.write_text(json.dumps(decision(1).as_dict()) + "\n", encoding="utf-8")
    tried = []
    numbered = line_file._numbered

    def counted(path: Path, number: int) -> Path:
        tried.append(number)
        return numbered(path, number)

    monkeypatch.setattr(line_file, "_numbered", counted)
    assert numbers(path) == [1, 2]
    assert len(tried) < 50


def test_a_file_of_the_log_that_cannot_be_read_is_named(path: Path) -> None:
    with AuditLog(path) as log:
        log.write(decision(2))
    path.with_name("audit.jsonl.1").mkdir()
    with pytest.raises(AuditError, match=r"audit\.jsonl\.1: it cannot be read"):
        list(audit.read(path))


def test_half_a_line_that_a_full_disk_keeps_costs_no_other_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FileIO.write

    class Full(FileIO):
        full = False

        def write(self, data: Any) -> int:
            if not Full.full:
                return real(self, data)
            Full.full = len(data) < 40
            if Full.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            Full.full = True
            return real(self, data[: len(data) - 20])

        def truncate(self, size: int | None = None) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(line_file, "FileIO", Full)
    with AuditLog(path) as log:
        log.write(decision(1))
        Full.full = True
        with pytest.raises(OSError, match="Input/output error"):
            log.write(decision(2))
        Full.full = False
        log.write(decision(3))
    assert numbers(path) == [1, 3]
