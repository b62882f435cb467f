"""procmon-gate: its output, its verdicts and its exit statuses. The gates are simulated, the rest is real."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import procmon
from commandline import ASKING, CommandGate, Scene, two, without_time
from monitoring import until
from patience import PATIENCE
from procmon import ALLOW, BLOCK, Verdict, audit
from procmon.cli import hold_commands, main, prompts, statuses


class TestRun:
    def test_it_shows_each_process_and_returns_the_commands_status(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.main(["run", "--policy", str(policy), "--", "make", "-j2"], scene.gates(two, status=7)) == 7
        assert scene.asked == {"command": ["make", "-j2"], "hold": 60.0, "fail": None, "check": False}
        out, err = capsys.readouterr()
        assert out == ""
        assert without_time(err) == [
            "allow   1000 c:\\tools\\a.exe  /x  [default]",
            "block   1004 c:\\games\\chess.exe  /x  [rule no games]",
            "2 held: 1 allowed, 1 blocked",
        ]

    def test_without_a_policy_all_may_run(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["run", "--exits", "make"], scene.gates(two)) == 0
        lines = without_time(capsys.readouterr().err)
        assert "allow   1000 c:\\tools\\a.exe  /x" in lines
        assert any(re.fullmatch(r"exit    1004 c:\\games\\chess.exe  \[status 3, \d\.\d\d s\]", line) for line in lines)
        assert lines[-1] == "2 held: 2 allowed, 0 blocked"

    def test_what_is_found_before_a_release_is_shown(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def tampered(gate: CommandGate) -> None:
            gate.tamper(process := gate.start("c:/tools/a.exe"))
            gate.verdict_of(process)

        command = ["run", "--check-before-release", "--policy", str(policy), "--", "make"]
        assert main.main(command, scene.gates(tampered)) == 0
        assert scene.asked["check"] is True
        lines = without_time(capsys.readouterr().err)
        assert sorted(lines[:2]) == [
            "allow   1000 c:\\tools\\a.exe  [default, not done]",
            "block   1000 c:\\tools\\a.exe  [tamper]",
        ]
        assert lines[2] == "1 held: 0 allowed, 1 blocked; 1 with other code in their memory"

    @pytest.mark.parametrize("shown", [[], ["--tree"], ["--summary"]])
    def test_a_verdict_that_came_too_late_is_not_shown_as_done(
        self, shown: list[str], scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The gate's own time limit passes while the verdict is sent: the process runs."""

        def late(gate: CommandGate) -> None:
            block = gate.block

            def time_out_first(*processes: procmon.ProcessHelper) -> list[procmon.VerdictResult]:
                gate.time_out(processes[0])
                return block(*processes)

            gate.block = time_out_first  # type: ignore[method-assign]
            process = gate.start("c:/games/chess.exe")
            assert gate.verdict_of(process) is ALLOW
            gate.exit(process, 3)

        assert main.main(["run", *shown, "--policy", str(policy), "make"], scene.gates(late)) == 0
        lines = without_time(capsys.readouterr().err)
        late_one = "1 gone, or answered by the gate, before a verdict; 1 decided by the gate itself"
        counts = f"1 held: 0 allowed, 0 blocked; {late_one}"
        if not shown:
            assert sorted(lines) == sorted(
                [
                    "allow   1000 c:\\games\\chess.exe  [gate timeout]",
                    "block   1000 c:\\games\\chess.exe  [rule no games, not done]",
                    counts,
                ]
            )
        else:
            assert lines[0] == counts
            assert "blocked by" not in lines[1]
            assert shown == ["--tree"] or lines[2].split()[:2] == ["1", "0"]

    def test_json_is_a_decision_a_line(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main.main(["run", "--json", "--exits", "--policy", str(policy), "make"], scene.gates(two))
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        decisions = [procmon.Decision.from_dict(line) for line in lines if line["event"] == "decision"]
        assert [(each.verdict, each.process.name) for each in decisions] == [(ALLOW, "a.exe"), (BLOCK, "chess.exe")]
        assert [(each.by.value, each.who) for each in decisions] == [("default", ""), ("rule", "no games")]
        assert [line["lifetime"] >= 0 for line in lines if line["event"] == "exit"] == [True, True]
        assert (lines[-1]["event"], lines[-1]["held"], lines[-1]["blocked"]) == ("summary", 2, 1)

    def test_the_audit_log_gets_each_decision_before_its_verdict_goes_out(
        self, scene: Scene, tmp_path: Path, policy: Path
    ) -> None:
        log = tmp_path / "audit.jsonl"
        main.main(["run", "--log", str(log), "--policy", str(policy), "make"], scene.gates(two))
        assert [(each.verdict, each.result) for each in audit.read(log)] == [(ALLOW, None), (BLOCK, None)]

    def test_an_audit_log_that_cannot_be_written_starts_nothing(
        self, scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.main(["run", "--log", str(tmp_path), "make"], scene.gates(two)) == statuses.FAILED
        assert scene.gate is None
        assert "it cannot be written" in capsys.readouterr().err

    def test_a_broken_policy_starts_nothing(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy.write_text("mode = 'x'", encoding="utf-8")
        assert main.main(["run", "--policy", str(policy), "make"], scene.gates(two)) == statuses.FAILED
        assert scene.gate is None
        assert 'there is no mode "x"' in capsys.readouterr().err

    def test_a_command_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        def missing(command: Sequence[str], **options: object) -> CommandGate:
            raise FileNotFoundError(2, "the system cannot find the file")

        assert main.main(["run", "--", "nonsense", "x"], main.Gates(run=missing)) == statuses.NOT_FOUND
        assert "there is no command nonsense" in capsys.readouterr().err

    def test_a_status_of_windows_fits_into_sys_exit(self) -> None:
        assert hold_commands.exit_status(0xC0000364) == 0xC0000364 - 2**32
        assert hold_commands.exit_status(7) == 7


class TestAsking:
    @pytest.mark.parametrize(("keys", "verdict"), [("y", ALLOW), ("n", BLOCK), ("xN", BLOCK)])
    def test_a_key_answers(
        self, keys: str, verdict: Verdict, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        verdicts: list[Verdict | None] = []

        def one(gate: CommandGate) -> None:
            verdicts.append(gate.verdict_of(gate.start("c:/tools/a.exe", hold_left=30.0)))

        policy.write_text(ASKING, encoding="utf-8")
        main.main(["run", "--policy", str(policy), "make"], scene.gates(one, keys=keys))
        assert verdicts == [verdict]
        err = capsys.readouterr().err
        assert "ask     1000 c:\\tools\\a.exe\n" in err
        assert " started by process 4  [rule new tools]\n" in err
        assert "  let a.exe (1000) run? [y/n/i/?] 30 s left, then allow " in err
        assert f"{verdict.value}   1000 c:\\tools\\a.exe  [you]" in err

    def test_one_question_at_a_time(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        verdicts: list[Verdict | None] = []

        def three(gate: CommandGate) -> None:
            started = [gate.start(f"c:/tools/{name}.exe") for name in "abc"]
            verdicts.extend(gate.verdict_of(process) for process in started)

        policy.write_text(ASKING, encoding="utf-8")
        main.main(["run", "--policy", str(policy), "make"], scene.gates(three, keys="yny"))
        assert verdicts == [ALLOW, BLOCK, ALLOW]
        questions = capsys.readouterr().err
        assert questions.index("let a.exe") < questions.index("let b.exe") < questions.index("let c.exe")

    @pytest.mark.parametrize("fail", [ALLOW, BLOCK])
    def test_without_a_terminal_it_is_said_what_happens(
        self, fail: Verdict, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        log = policy.with_name("audit.jsonl")
        arguments = ["run", "--policy", str(policy), "--fail", fail.value, "--log", str(log), "make"]
        main.main(arguments, scene.gates(two))
        err = capsys.readouterr().err
        assert f"no terminal to ask on, so `ask` is {fail.value}" in err
        assert f"{fail.value}   1000 c:\\tools\\a.exe  /x  [no terminal to ask]" in err
        first = next(procmon.audit.read(log))
        assert (first.by, first.who, first.reason) == (procmon.DecidedBy.DEFAULT, "", "no terminal to ask")
        assert procmon.audit.replay(log, procmon.Policy.load(policy)).changes == ()

    def test_a_key_pressed_before_the_question_could_be_read_is_no_answer(
        self, scene: Scene, policy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        verdicts: list[Verdict | None] = []

        def one(gate: CommandGate) -> None:
            verdicts.append(gate.verdict_of(gate.start("c:/tools/a.exe"), timeout=PATIENCE))

        def key(keys: object, timeout: float) -> str:
            """Only keys move the clock: three while the question ignores keys, and one after that."""
            now.append(now[-1] + 0.125)
            return "nnny"[len(now) - 2] if len(now) < 6 else ""

        now = [0.0]
        policy.write_text(ASKING, encoding="utf-8")
        monkeypatch.setattr(prompts, "KEY_DEBOUNCE_S", 0.5)
        monkeypatch.setattr(prompts, "time", SimpleNamespace(monotonic=lambda: now[-1], sleep=time.sleep))
        monkeypatch.setattr("commandline.Keys.key", key)
        main.main(["run", "--policy", str(policy), "make"], scene.gates(one, keys=""))
        assert verdicts == [ALLOW]

    def test_a_keyboard_that_fails_ends_it(
        self, scene: Scene, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(keys: object, timeout: float) -> str:
            raise OSError(6, "PeekConsoleInputW: the handle is invalid")

        def one(gate: CommandGate) -> None:
            gate.verdict_of(gate.start("c:/tools/a.exe"), timeout=PATIENCE)

        policy.write_text(ASKING, encoding="utf-8")
        monkeypatch.setattr("commandline.Keys.key", fail)
        assert main.main(["guard", "--policy", str(policy)], scene.gates(one, keys="")) == statuses.FAILED
        assert "PeekConsoleInputW" in capsys.readouterr().err

    def test_a_question_names_the_parent(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def child(gate: CommandGate) -> None:
            [explorer] = [process for process in gate.snapshot() if process.name == "explorer.exe"]
            gate.verdict_of(gate.start("c:/tools/a.exe", parent_pid=explorer.pid, command_line="a /x"))

        def before(gate: CommandGate) -> None:
            gate.running_before("c:/windows/explorer.exe")

        policy.write_text(ASKING, encoding="utf-8")
        main.main(["guard", "--policy", str(policy)], scene.gates(child, before=before, keys="y"))
        out = capsys.readouterr().out
        assert "1004 c:\\tools\\a.exe\n" in out
        assert "/x\n" in out
        assert "started by explorer.exe (1000)  [rule new tools]\n" in out


class TestGuardWithoutRules:
    def test_it_asks_about_each_process(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        verdicts: list[Verdict | None] = []

        def several(gate: CommandGate) -> None:
            for image in ("c:/tools/a.exe", "c:/games/chess.exe", "c:/windows/system32/conhost.exe"):
                verdicts.append(gate.verdict_of(gate.start(image, hold_left=60.0), timeout=PATIENCE))

        assert main.main(["guard"], scene.gates(several, keys="yn")) == statuses.FAILED  # for the gate has ended
        assert verdicts == [ALLOW, BLOCK, ALLOW]  # no question about the console host
        out = capsys.readouterr().out
        assert out.startswith("asking about each process that starts: y lets it run, n ends it; ")
        assert "let a.exe (1000) run? [y/n/i/?] 60 s left, then allow " in out
        assert "allow   1000 c:\\tools\\a.exe  [you]" in out

    @pytest.mark.parametrize("arguments", [[], ["--json"]])
    def test_where_no_question_can_be_asked_it_holds_nothing(
        self, arguments: list[str], scene: Scene, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.main(["guard", *arguments], scene.gates(two)) == statuses.FAILED
        assert scene.gate is None
        err = capsys.readouterr().err
        assert ("with --json there are no questions" if arguments else "there is no terminal to ask on") in err
        for way_out in ("--policy FILE", "--audit", "`procmon-gate watch`"):
            assert way_out in err

    @pytest.mark.parametrize("keys", ["", None])
    def test_audit_shows_what_it_would_ask_about(
        self, keys: str | None, scene: Scene, capsys: pytest.CaptureFixture[str]
    ) -> None:
        main.main(["guard", "--audit"], scene.gates(two, keys=keys))
        out = capsys.readouterr().out
        assert "would ask     1004 c:\\games\\chess.exe" in out
        assert out.endswith("2 held: 2 allowed, 0 blocked; 0 would have been blocked, 2 asked about\n")

    def test_its_own_terminal_is_never_kept_waiting(self, scene: Scene) -> None:
        """A terminal may wait for the console host of a new tab, and then shows no question."""
        verdicts: list[Verdict | None] = []
        terminal, shell, other = 500, 504, 508

        def before(gate: CommandGate) -> None:
            for image, pid, parent in (
                ("c:/terminal/windowsterminal.exe", terminal, 4),
                ("c:/windows/system32/cmd.exe", shell, terminal),
                ("c:/python/python.exe", os.getpid(), shell),
                ("c:/terminal/other.exe", other, 4),
            ):
                gate.start(image, pid=pid, parent_pid=parent, flags=procmon.ProcessFlags.RUNNING_BEFORE)

        def tabs(gate: CommandGate) -> None:
            for image, parent in (
                ("c:/terminal/openconsole.exe", terminal),
                ("c:/windows/system32/cmd.exe", terminal),  # the shell of a new tab
                ("c:/terminal/openconsole.exe", other),
            ):
                verdicts.append(gate.verdict_of(gate.start(image, parent_pid=parent), timeout=PATIENCE))

        main.main(["guard"], scene.gates(tabs, before=before, keys="nn"))
        assert verdicts == [ALLOW, BLOCK, BLOCK]


class TestGuardAndWatch:
    def test_guard_applies_the_policy(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert (
            main.main(["guard", "--policy", str(policy)], scene.gates(two)) == statuses.FAILED
        )  # for the gate has ended
        out, err = capsys.readouterr()
        assert err.startswith("procmon-gate: scripted ended, and nothing is held any more")
        lines = without_time(out)
        assert re.search(r"policy.toml: 1 rule, enforced, no default, version \w{12}; Ctrl\+C ends it$", lines[0])
        assert lines[2].startswith("block   1004 c:\\games\\chess.exe")

    def test_audit_mode_blocks_nothing(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main.main(["guard", "--audit", "--policy", str(policy)], scene.gates(two))
        out = capsys.readouterr().out
        assert "allow         1000 c:\\tools\\a.exe" in out  # in one column
        assert "would block   1004 c:\\games\\chess.exe" in out
        assert out.endswith("2 held: 2 allowed, 0 blocked; 1 would have been blocked, 0 asked about\n")

    def test_audit_runs_with_run_too(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        main.main(["run", "--audit", "--policy", str(policy), "make"], scene.gates(two))
        err = capsys.readouterr().err
        assert "would block   1004 c:\\games\\chess.exe" in err
        assert "2 held: 2 allowed, 0 blocked" in err

    def test_rules_that_fail_are_not_silent(
        self, scene: Scene, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def fail(policy: procmon.Policy, process: procmon.ProcessHelper) -> None:
            raise LookupError("no such fact")

        monkeypatch.setattr(procmon.Policy, "__call__", fail)
        main.main(["guard", "--fail", "block", "--policy", str(policy)], scene.gates(two))
        out = capsys.readouterr().out
        assert out.count("the rules failed: LookupError('no such fact'); the verdict is block") == 1
        assert out.endswith("2 held: 0 allowed, 2 blocked\n")

    def test_a_log_that_fails_is_not_silent(
        self, scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def full(log: procmon.AuditLog, line: bytes) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(procmon.AuditLog, "_append", full)
        main.main(["watch", "--log", str(tmp_path / "audit.jsonl")], scene.gates(two))
        out = capsys.readouterr().out
        assert out.count("No space left on device; the verdicts stand, and are not in the log\n") == 1
        assert out.endswith("2 held: 2 allowed, 0 blocked; 2 not written to the log\n")

    def test_driver_rules_go_to_the_driver_and_again_when_the_file_changes(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handed: list[object] = []

        def change(gate: CommandGate) -> None:
            policy.write_text("[[rule]]\nimage = 'c:/b.exe'\nverdict = 'allow'\n", encoding="utf-8")
            until(lambda: len(handed) > 1, "the rules of the changed file")

        monkeypatch.setattr(CommandGate, "set_rules", lambda _, rules: handed.append(rules), raising=False)
        policy.write_text("[[rule]]\nimage = 'C:/a.exe'\nverdict = 'block'", encoding="utf-8")
        main.main(["guard", "--driver-rules", "--policy", str(policy)], scene.gates(change))
        assert handed == [[("c:\\a.exe", BLOCK)], [("c:\\b.exe", ALLOW)]]
        assert "the driver itself decides about 1 exact path" in capsys.readouterr().out
        handed.clear()
        main.main(["guard", "--driver-rules", "--audit", "--policy", str(policy)], scene.gates(lambda _: None))
        assert handed == []

    def test_rules_that_the_driver_refuses_leave_no_older_ones_there(
        self, scene: Scene, policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        handed: list[list[tuple[str, Verdict]]] = []

        def take(_: CommandGate, rules: list[tuple[str, Verdict]]) -> None:
            handed.append(rules)
            if rules:
                raise procmon.ProcmonError("the kernel has no memory")

        monkeypatch.setattr(CommandGate, "set_rules", take, raising=False)
        policy.write_text("[[rule]]\nimage = 'C:/a.exe'\nverdict = 'block'", encoding="utf-8")
        assert (
            main.main(["guard", "--driver-rules", "--policy", str(policy)], scene.gates(lambda _: None))
            == statuses.FAILED
        )
        assert handed == [[("c:\\a.exe", BLOCK)], []]
        assert "no memory" in capsys.readouterr().err

    def test_watch_only_shows(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        main.main(["watch"], scene.gates(two))
        assert "allow   1004 c:\\games\\chess.exe" in capsys.readouterr().out


def test_a_windows_command_elsewhere_ends_with_one_line() -> None:
    if sys.platform == "win32":
        arguments = ["guard", "--policy", "none.toml"]
        expected = statuses.FAILED
    else:
        arguments, expected = ["driver", "status"], statuses.NEEDS_WINDOWS
    ended = subprocess.run(
        [sys.executable, "-m", "procmon", *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(procmon.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (expected, "", 1)
    assert ended.stderr.startswith("procmon-gate: ")


def test_the_help_of_every_command_works_everywhere_and_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("procmon.cli.parser.page", lambda name: f"docs/{name}")
    commands = [""]
    for command in commands:  # it grows: a help lists the commands below
        assert main.main([*command.split(), "--help"]) == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: procmon-gate {command}".rstrip())
        assert [line for line in shown.splitlines() if len(line) > 79] == []
        assert "SUPPRESS" not in shown
        commands += [f"{command} {name}".lstrip() for name in re.findall(r"^ {4}([a-z]+)\b", shown, re.M)]
    assert {"report", "driver sign", "policy import applocker", "service install"} <= set(commands)


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (["nonsense"], "nonsense"),
        (["run"], "write one after --, as in: procmon-gate run -- cmd /c hostname"),
        (["run", "--"], "write one after --"),
        (["run", "--hold", "-1", "x"], "-1 is not a number of seconds; 0 is no limit"),
        (["run", "--hold", "soon", "x"], "soon is not a number of seconds; 0 is no limit"),
        (["run", "--hold", "nan", "x"], "nan is not a number of seconds"),
        (["run", "--hold", "1e306", "x"], "1e306 is not a number of seconds"),
        (["run", "--fail", "maybe", "x"], "maybe is neither allow nor block"),
        (["guard", "--driver-rules"], "give --policy FILE, too"),
        (["guard", "--pol", "x"], "--pol"),
    ],
)
def test_a_wrong_command_line_is_2(arguments: list[str], advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(arguments) == 2
    assert advice in capsys.readouterr().err
