"""The data of a report: parents and children, counts, omissions, and that no name can break out of its place."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import procmon
from procmon import ALLOW, BLOCK, AuditLog, DecidedBy, Decision, ProcessHelper, Verdict, VerdictResult
from procmon.cli import report as module
from procmon.cli.main import main
from procmon.cli.report import Report, page, write_report

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def decision(
    pid: int,
    parent_pid: int = 4,
    image: str = "c:\\tools\\a.exe",
    *,
    key: int | None = None,
    after: float = 0,
    verdict: Verdict = ALLOW,
    result: VerdictResult | None = VerdictResult.DONE,
    command_line: str | None = None,
    audited: bool = False,
    reason: str = "",
) -> Decision:
    return Decision(
        process=ProcessHelper(
            pid=pid,
            parent_pid=parent_pid,
            image_name=image,
            start_key=pid if key is None else key,
            command_line=command_line,
        ),
        verdict=verdict,
        by=DecidedBy.RULE,
        who="no games",
        at=NOON + timedelta(seconds=after),
        held_for=0.25,
        audited=audited,
        result=result,
        reason=reason,
    )


def report_of(*decisions: Decision) -> Report:
    report = Report()
    report.begin_log("audit.jsonl")
    for each in decisions:
        report.add(each)
    return report


def shown(report: Report) -> list[str]:
    data = json.loads(report.as_json())
    return [data["kinds"][kind]["shown"] for kind in data["columns"]["kind"]]


def test_a_process_stands_below_the_latest_of_its_parents_pid() -> None:
    report = report_of(decision(8), decision(12, 8, after=1), decision(8, key=13, after=2), decision(16, 8, after=3))
    assert report.columns["parent"] == [-1, 0, -1, 2]


def test_a_process_does_not_stand_below_one_that_had_exited() -> None:
    report = report_of(decision(8))
    report.add_exit(replace(decision(8).process, exited_at=NOON + timedelta(seconds=1)))
    report.add(decision(12, 8, after=2))
    assert report.columns["parent"] == [-1, -1] and report.columns["exit"] == [1000, -1]


@pytest.mark.parametrize(("created", "parent"), [(1, 0), (2, 0), (3, -1)])
def test_a_child_that_was_held_when_its_parent_exited_stands_below_it(created: int, parent: int) -> None:
    """Its line follows the line of the exit."""
    first, child = decision(8), decision(12, 8, after=9)
    report = report_of(replace(first, process=replace(first.process, created=NOON)))
    report.add_exit(replace(first.process, created=NOON, exited_at=NOON + timedelta(seconds=2)))
    report.add(replace(child, process=replace(child.process, created=NOON + timedelta(seconds=created))))
    assert report.columns["parent"] == [-1, parent]


def test_a_process_that_got_the_pid_of_the_parent_of_a_held_child_is_not_its_parent() -> None:
    report = report_of(decision(8, key=20), decision(12, 8, after=9))
    assert report.columns["parent"] == [-1, -1]


def test_processes_of_two_logs_are_never_parent_and_child() -> None:
    report = report_of(decision(8))
    report.begin_log("other.jsonl")
    report.add(decision(12, 8))
    assert report.columns["parent"] == [-1, -1]


def test_a_second_decision_about_a_process_says_what_came_of_the_first() -> None:
    report = report_of(decision(8, result=None), decision(8, result=VerdictResult.STALE))
    assert len(report) == 1 and shown(report) == ["other"]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 2), (2, 1), (1,)])
def test_a_process_that_was_allowed_and_then_found_tampered_has_one_row(order: tuple[int, ...]) -> None:
    """The lines of a log are in the order of writing. A sink that writes ahead gets the first decision twice."""
    tampered = decision(8, after=1, verdict=BLOCK, result=None)
    lines = [decision(8, result=None), tampered, decision(8, result=VerdictResult.TAMPERED)]
    report = report_of(*(lines[index] for index in order))
    assert len(report) == 1 and shown(report) == ["block"]


@pytest.mark.parametrize(
    ("each", "group"),
    [
        (decision(8), "allow"),
        (decision(8, verdict=BLOCK), "block"),
        (decision(8, verdict=BLOCK, audited=True), "would"),
        (decision(8, verdict=procmon.DEFER, audited=True), "ask"),
        (decision(8, verdict=procmon.DEFER, result=None), "other"),
        (decision(8, verdict=BLOCK, result=None), "block"),
    ],
)
def test_each_decision_belongs_to_one_group(each: Decision, group: str) -> None:
    assert shown(report_of(each)) == [group]


def test_times_are_differences_that_add_up() -> None:
    data = json.loads(report_of(decision(8), decision(12, after=1.5), decision(16, after=1.25)).as_json())
    assert data["columns"]["at"] == [0, 1500, -250]
    assert datetime.fromtimestamp(data["epoch"] / 1000, UTC) == NOON
    assert data["columns"]["held"] == [250_000] * 3


def test_the_rarest_command_lines_are_left_out_when_there_is_no_room_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "COMMAND_LINES_BYTES", 12)
    common, rare = "a -common", "b -rare-rare"
    report = report_of(*(decision(8 + 4 * at, command_line=line) for at, line in enumerate([rare, common, common])))
    data = json.loads(report.as_json())
    assert [data["texts"][at] if at >= 0 else None for at in data["columns"]["command"]] == [None, common, common]
    assert data["notes"] == ["1 command lines, the rarest, are left out to keep the page small."]


def test_a_long_command_line_is_cut_and_the_page_says_so() -> None:
    data = json.loads(report_of(decision(8, command_line="x" * 10_000)).as_json())
    assert data["notes"] == ["1 command lines are cut at 400 characters."]
    assert "x" * 400 in data["texts"]


def test_exits_in_the_log_give_processes_an_end(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with AuditLog(log) as audit:
        audit.write(decision(8))
        ended = replace(decision(8).process, exited=True, exit_status=3, exited_at=NOON + timedelta(seconds=2))
        audit.write_exit(ended)
    report = module.read_logs([log])
    assert (report.columns["exit"], report.columns["status"]) == ([2000], [3])
    assert report.damaged == 0


def test_no_name_can_end_the_script_element() -> None:
    hostile = "c:\\</script><img src=x onerror=alert(1)>.exe"
    text = page(report_of(decision(8, image=hostile, reason="<!--<script>")))
    inside = text.partition('<script type="application/json" id="data">')[2].partition("</script>")[0]
    assert hostile in json.loads(inside)["texts"] and "<" not in inside


def test_half_a_surrogate_pair_in_a_name_does_not_stop_the_page(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with AuditLog(log) as audit:
        audit.write(decision(8, image="c:\\\ud800.exe"))
    write_report([log], tmp_path / "report.html")
    assert "c:" in (tmp_path / "report.html").read_text("utf-8")


def test_the_command_writes_one_page_for_several_logs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logs = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    for number, path in enumerate(logs):
        with AuditLog(path) as log:
            log.write(decision(8 + number))
    output = tmp_path / "report.html"
    assert main(["report", *map(str, logs), "-o", str(output)]) == 0
    assert capsys.readouterr().out.startswith(f"{output}: 2 decisions, ")
    assert '"logs":["one.jsonl","two.jsonl"]' in output.read_text("utf-8")


def test_files_without_one_decision_make_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_log, output = tmp_path / "policy.toml", tmp_path / "report.html"
    no_log.write_text("[[rule]]\nverdict = 'ask'\n", encoding="utf-8")
    output.write_text("an older page", encoding="utf-8")
    assert main(["report", str(no_log), "-o", str(output)]) == 125
    assert "policy.toml: no line is a decision" in capsys.readouterr().err
    assert output.read_text("utf-8") == "an older page"


def test_a_log_without_a_line_makes_an_empty_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, output = tmp_path / "audit.jsonl", tmp_path / "report.html"
    AuditLog(log).close()
    assert main(["report", str(log), "-o", str(output)]) == 0
    assert "0 decisions" in capsys.readouterr().out and output.exists()


def test_what_is_no_line_of_a_log_is_counted_where_the_command_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, no_log = tmp_path / "audit.jsonl", tmp_path / "policy.toml"
    with AuditLog(log) as audit:
        audit.write(decision(8))
    no_log.write_text("[[rule]]\nverdict = 'ask'\n", encoding="utf-8")
    assert main(["report", str(log), str(no_log), "-o", str(tmp_path / "report.html")]) == 0
    assert re.search(r"1 decisions, [1-9]\d* KiB; 2 damaged lines of the logs are left out\n", capsys.readouterr().out)


def test_a_log_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "none.jsonl"), "-o", str(tmp_path / "report.html")]) == 125
    assert "none.jsonl" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_page_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "audit.jsonl"
    with AuditLog(log) as audit:
        audit.write(decision(8))
    assert main(["report", str(log), "-o", str(tmp_path / "no" / "report.html")]) == 125
    assert "give --output FILE" in capsys.readouterr().err


def test_100_000_decisions_make_a_page_of_less_than_10_mib() -> None:
    report = Report()
    report.begin_log("audit.jsonl")
    for number in range(100_000):
        line = f"cl.exe /c source-{number}.cpp /Fo:build/objects/source-{number}.obj /DNAME={'x' * 60}"
        image = f"c:\\build\\tool-{number % 3000}.exe"
        report.add(decision(8 + 4 * number, 4 * number, image, after=number / 9, command_line=line))
    assert len(page(report).encode()) < 10 * 2**20


def test_a_process_of_another_start_of_windows_has_a_row_of_its_own() -> None:
    """A log goes on after a restart, and pids and start keys begin again."""
    first, second = decision(8), decision(8, after=90_000)
    first = replace(first, process=replace(first.process, created=first.at))
    second = replace(second, process=replace(second.process, created=second.at))
    report = report_of(first, second)
    report.add_exit(replace(second.process, exited_at=second.at + timedelta(seconds=1)))
    assert len(report) == 2 and report.columns["exit"] == [-1, 1000]


def test_the_reason_is_that_of_the_decision_in_the_row() -> None:
    report = report_of(decision(8, reason="no terminal to ask"), decision(8, after=1))
    assert len(report) == 1 and report.reasons == {}
    assert report_of(decision(8), decision(8, after=1, reason="ValueError: x")).reasons == {0: "ValueError: x"}


def test_a_command_line_of_just_the_limit_is_not_cut() -> None:
    limit = module.COMMAND_LINE_CHARACTERS
    report = report_of(decision(8, command_line="x" * limit), decision(12, command_line="x" * (limit + 1)))
    assert json.loads(report.as_json())["notes"] == [f"1 command lines are cut at {limit} characters."]
