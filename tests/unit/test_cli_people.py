"""procmon-gate for its users: typing mistakes, output to files, closed pipes, the summary of a run."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import procmon
from commandline import CommandGate, Scene, two, without_time
from patience import PATIENCE
from procmon import ALLOW, BLOCK, DecidedBy, VerdictResult, audit
from procmon.cli import main, statuses
from procmon.cli.results import Results

PROCMON = [sys.executable, "-m", "procmon"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(procmon.__file__).parents[1])}


class TestTypingMistakes:
    @pytest.mark.parametrize(
        ("arguments", "said", "usage"),
        [
            (["rnu", "--", "cmd"], "there is no command rnu; did you mean run?", "procmon-gate "),
            (["xyz"], "there is no command xyz; there are run, guard, watch, ", "procmon-gate "),
            (["policy", "chekc", "x"], "there is no question chekc; did you mean check?", "procmon-gate policy "),
            (["driver", "instal"], "there is no step instal; did you mean install?", "procmon-gate driver "),
            (["run", "--polcy", "a", "cmd"], "there is no option --polcy; did you mean --policy?", "procmon-gate run "),
            (["guard", "--zzz=x"], "there is no option --zzz; there are -h, --help, ", "procmon-gate guard "),
            (["run", "--json", "--tree", "cmd"], "--tree and --summary are for people", "procmon-gate run "),
        ],
    )
    def test_the_error_says_what_may_have_been_meant_with_the_usage_of_that_command(
        self, arguments: list[str], said: str, usage: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.main(arguments) == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.startswith(f"usage: {usage}")

    @pytest.mark.parametrize("arguments", [[], ["policy"], ["driver"]])
    def test_without_a_command_there_is_help(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(arguments) == 0
        out, err = capsys.readouterr()
        assert out.startswith("usage: procmon-gate " + " ".join(arguments))
        assert err == ""

    def test_every_command_has_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        for command in main.COMMANDS:
            assert main.main([*command.split(), "--help"]) == 0
            assert capsys.readouterr().out.startswith(f"usage: procmon-gate {command} ")

    def test_a_command_of_cmd_is_no_program(self, capsys: pytest.CaptureFixture[str]) -> None:
        def missing(command: object, **_: object) -> CommandGate:
            raise FileNotFoundError(2, "the system cannot find the file")

        assert main.main(["run", "--", "dir", "/s", "my files"], main.Gates(run=missing)) == statuses.NOT_FOUND
        said = "dir is no program, but a command of cmd.exe; write: procmon-gate run -- cmd /c dir /s "
        assert f'{said}"my files"' in capsys.readouterr().err

    def test_a_script_is_no_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def missing(command: object, **_: object) -> CommandGate:
            raise FileNotFoundError(2, "the system cannot find the file")

        monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / f"{name}.CMD"))
        assert main.main(["run", "--", "npm", "test"], main.Gates(run=missing)) == statuses.NOT_FOUND
        said = "npm is npm.CMD, which cmd.exe runs; write: procmon-gate run -- cmd /c npm test"
        assert said in capsys.readouterr().err


def test_the_help_explains_everything_that_stands_in_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    # No callback of the user's is asked here, and nothing answers the gate beside the monitor.
    shown = {each.value for each in procmon.DecidedBy} - {"callback", "controller"}
    main.main(["guard", "--help"])
    legend = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for value in shown - {"user", "rule", "no controller"}:
        assert f"  [{value}] " in legend, value
        assert f"| `{value}` |" in page, value
    assert "[you]" in legend and "[rule NAME]" in legend and "[no controller]" in legend


class TestWhereTheLinesGo:
    def test_output_is_a_file_of_its_own(
        self, scene: Scene, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output = tmp_path / "lines.txt"
        main.main(["run", "--output", str(output), "--policy", str(policy), "make"], scene.gates(two))
        assert capsys.readouterr() == ("", "")
        lines = without_time(output.read_text(encoding="utf-8"))
        assert lines[1:] == ["block   1004 c:\\games\\chess.exe  /x  [rule no games]", "2 held: 1 allowed, 1 blocked"]

    def test_an_output_that_cannot_be_written_starts_nothing(
        self, scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.main(["run", "--output", str(tmp_path), "make"], scene.gates(two)) == statuses.FAILED
        assert scene.gate is None
        assert "it cannot be written: " in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("command", "used"),
        [
            *product([["run", "make"], ["guard"]], ["policy", "folder", "link", "answers"]),
            *product([["run", "make"], ["guard"], ["watch"]], ["log", "older log", "new log"]),
        ],
    )
    def test_the_lines_go_to_no_file_that_the_command_uses_otherwise(
        self, command: list[str], used: str, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        output, files = policy, ["--policy", str(policy)]
        if used == "folder":
            files = ["--policy", str(policy.parent)]
        elif used == "link":
            os.link(policy, output := policy.with_name("link.toml"))
        elif used == "answers":
            files = ["--answers", str(policy)]
        elif "log" in used:
            log = policy.with_name("audit.jsonl")
            output = log.with_name("audit.jsonl.1") if used == "older log" else log
            files = ["--log", str(log)]
        if used != "new log":
            output.touch()
        before = output.read_bytes() if output.exists() else None
        kind, *argv = command
        options = [*files, "--output", str(output.parent / "." / output.name)]
        assert main.main([kind, *options, *argv], scene.gates(two)) == statuses.FAILED
        assert "give another --output FILE" in capsys.readouterr().err
        assert (output.read_bytes() if output.exists() else None) == before
        assert scene.gate is None

    @pytest.mark.parametrize("rules", ["--policy", "--answers"])
    def test_no_log_is_appended_to_the_rules(
        self, rules: str, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = policy.read_bytes()
        command = ["run", rules, str(policy), "--log", str(policy), "make"]
        assert main.main(command, scene.gates(two)) == statuses.FAILED
        assert "give another --log FILE" in capsys.readouterr().err
        assert policy.read_bytes() == before

    @pytest.mark.parametrize(
        ("command", "wrong"),
        [
            *product([["run", "make"], ["guard"]], ["--policy", "--answers", "--log"]),
            (["watch"], "--log"),
        ],
    )
    def test_a_file_with_a_mistake_leaves_the_output_as_it_was(
        self, command: list[str], wrong: str, scene: Scene, policy: Path, tmp_path: Path
    ) -> None:
        policy.write_text("[[rule]]\n", encoding="utf-8")
        output = tmp_path / "lines.txt"
        output.write_text("of yesterday", encoding="utf-8")
        kind, *argv = command
        given = str(tmp_path if wrong == "--log" else policy)  # a log is no folder
        assert main.main([kind, wrong, given, "--output", str(output), *argv], scene.gates(two)) == statuses.FAILED
        assert output.read_text(encoding="utf-8") == "of yesterday"

    def test_the_audit_log_has_the_exits_too(self, scene: Scene, policy: Path, tmp_path: Path) -> None:
        log = tmp_path / "audit.jsonl"
        main.main(["run", "--log", str(log), "--policy", str(policy), "make"], scene.gates(two))
        lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
        exits = [line for line in lines if line.get("event") == "exit"]
        assert [(line["process"]["image_name"], line["process"]["exit_status"]) for line in exits] == [
            ("c:\\tools\\a.exe", 3), ("c:\\games\\chess.exe", 0xC0000364),
        ]  # fmt: skip
        assert all(line["at"] == line["process"]["exited_at"] for line in exits)
        assert all(line["lifetime"] >= 0 for line in exits)
        reader = audit.read(log)
        assert [each.verdict for each in reader] == [ALLOW, BLOCK]
        assert reader.damaged == []


class TestWhatStartedBefore:
    def test_it_is_counted_and_has_no_line(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        def early(gate: CommandGate) -> None:
            [early] = gate.running_before("c:/early.exe")
            with gate._state:
                gate._report(
                    replace(early, verdict=ALLOW, decided_by=DecidedBy.NO_CONTROLLER)
                )  # as the driver reports it

        assert main.main(["watch"], scene.gates(two, before=early)) == statuses.FAILED  # the gate has ended
        out = capsys.readouterr().out
        assert "early.exe" not in out
        assert "2 held: 2 allowed, 0 blocked; 1 started before procmon was connected, and were not held" in out


class TestResults:
    def build(self, gate: CommandGate) -> None:
        make = gate.start("c:/tools/make.exe", parent_pid=4)
        gate.verdict_of(make)
        for name, status in (("cc", 0), ("cc", 0), ("cc", 2), ("chess", None), ("ld", 0)):
            folder = "games" if name == "chess" else "tools"
            process = gate.start(f"c:/{folder}/{name}.exe", parent_pid=make.pid)
            if gate.verdict_of(process) is ALLOW:
                gate.exit(process, status or 0)
        gate.exit(make, 2)

    def test_tree_draws_what_became_of_each(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["run", "--tree", "--policy", str(policy), "make"]
        assert main.main(arguments, scene.gates(self.build, status=2)) == 2
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "6 held: 5 allowed, 1 blocked"
        assert [line.rpartition(", ")[0] or line.partition(" (")[0] for line in lines[1:]] == [
            "make.exe 1000 (status 2",
            "├─ cc.exe x 2",
            "├─ cc.exe 1012 (status 2",
            "├─ chess.exe 1016",
            "└─ ld.exe 1020",
        ]
        assert lines[4] == "├─ chess.exe 1016 (blocked by rule no games)"

    def test_where_the_output_has_no_lines_for_a_tree_they_are_ascii(
        self, scene: Scene, policy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Windows writes files and pipes in a code page of 256 characters."""

        def start(gate: CommandGate) -> None:
            parent_pid = 4
            for name in ("make", "\u65e5", "ld"):
                process = gate.start(f"c:/tools/{name}.exe", parent_pid=parent_pid)
                parent_pid = 1000
                gate.verdict_of(process)

        written = io.BytesIO()
        monkeypatch.setattr("sys.stderr", io.TextIOWrapper(written, "cp1252", newline="\n"))
        main.main(["run", "--tree", "--policy", str(policy), "make"], scene.gates(start))
        sys.stderr.flush()
        lines = written.getvalue().decode("ascii").splitlines()
        assert [line.partition(" (")[0] for line in lines[-2:]] == ["+- \\u65e5.exe 1004", "+- ld.exe 1008"]

    def test_summary_has_a_line_for_each_program(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main.main(["run", "--summary", "--policy", str(policy), "make"], scene.gates(self.build))
        lines = [line.split() for line in capsys.readouterr().err.splitlines()[1:]]
        assert lines[0] == ["STARTS", "BLOCKED", "SECONDS", "IMAGE"]
        assert [(starts, blocked, image) for starts, blocked, _, image in lines[1:]] == [
            ("3", "0", "c:\\tools\\cc.exe"),
            ("1", "1", "c:\\games\\chess.exe"),
            ("1", "0", "c:\\tools\\ld.exe"),
            ("1", "0", "c:\\tools\\make.exe"),
        ]

    @pytest.mark.parametrize("first", [0, 1])
    def test_of_two_decisions_the_one_that_was_carried_out_counts(self, first: int) -> None:
        """Which of them comes first is a matter of time."""
        process, results = procmon.SimulatedGate().start("c:/a.exe"), Results()
        late = procmon.Policy.parse('default = "block"').decide(process)
        both = [replace(late, result=VerdictResult.ANSWERED), replace(late, verdict=ALLOW, by=DecidedBy.GATE_TIMEOUT)]
        results.write(both[first])
        results.write(both[1 - first])
        assert "blocked" not in results.tree()
        assert results.summary().splitlines()[1].split()[:2] == ["1", "0"]

    def test_names_cannot_move_the_cursor(self) -> None:
        gate, results = procmon.SimulatedGate(), Results()
        results.write(procmon.Policy.parse("").decide(gate.start("c:/\x1b[2J.exe")))
        assert "\x1b" not in results.tree() + results.summary()


class Closed:
    """A stream whose reader has closed, like an unbuffered one on Windows."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "broken pipe")

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return False


class TestBrokenPipes:
    """The reader of the output closes: no traceback, no message, one status."""

    def end(self, *arguments: str) -> tuple[int, bytes]:
        reading, writing = os.pipe()
        os.close(reading)
        try:
            ended = subprocess.run(
                [*PROCMON, *arguments],
                stdout=writing,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                timeout=PATIENCE,
                check=False,
            )
        finally:
            os.close(writing)
        return ended.returncode, ended.stderr

    def test_of_a_short_answer(self, policy: Path) -> None:
        assert self.end("policy", "check", str(policy)) == (statuses.BROKEN_PIPE, b"")

    def test_of_a_long_answer(self, tmp_path: Path) -> None:
        log, policy = tmp_path / "audit.jsonl", tmp_path / "policy.toml"
        policy.write_text('default = "block"', encoding="utf-8")
        gate = procmon.SimulatedGate()
        with procmon.AuditLog(log) as writer:
            for _ in range(300):
                writer.write(procmon.Policy.parse("").decide(gate.start("c:/tools/a.exe")))
        assert self.end("policy", "replay", "--json", str(policy), str(log)) == (statuses.BROKEN_PIPE, b"")

    def test_of_help(self) -> None:
        assert self.end("--help") == (statuses.BROKEN_PIPE, b"")

    def test_of_help_where_the_write_itself_fails(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "stdout", Closed())
        assert main.main(["run", "--help"]) == statuses.BROKEN_PIPE

    def test_run_goes_on_deciding(self, scene: Scene, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        verdicts: list[procmon.Verdict | None] = []

        def script(gate: CommandGate) -> None:
            for image in ("c:/tools/a.exe", "c:/games/chess.exe"):
                verdicts.append(gate.verdict_of(gate.start(image)))

        monkeypatch.setattr(sys, "stderr", Closed())
        assert main.main(["run", "--policy", str(policy), "make"], scene.gates(script)) == statuses.BROKEN_PIPE
        assert verdicts == [ALLOW, BLOCK]


def test_selftest_off_windows_says_what_works_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if sys.platform != "win32":
        output = tmp_path / "selftest.json"
        assert main.main(["selftest", "--output", str(output)]) == statuses.NEEDS_WINDOWS
        assert "selftest needs Windows" in capsys.readouterr().err
        assert not output.exists()
