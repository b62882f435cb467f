"""procmon-gate: what it prints, what it answers, and how it ends. The gates are simulated, the rest is real."""

import _thread
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import procmon
from procmon import ALLOW, BLOCK, SimulatedGate, Verdict, audit, cli
from procmon._cli_live import Keyboard, Reloader
from procmon._cli_screen import Screen
from procmon.records import printable

Script = Callable[["CommandGate"], None]


class CommandGate(SimulatedGate):
    """A gate over a real command; the processes that it is said to start come from a script."""

    def __init__(self, script: Script, status: int = 0) -> None:
        super().__init__("scripted")
        self.popen = subprocess.Popen([sys.executable, "-c", f"raise SystemExit({status})"])
        self._script = threading.Thread(target=self._play, args=(script,), daemon=True)
        self._script.start()

    def _play(self, script: Script) -> None:
        try:
            script(self)
            self.end()
        except procmon.GateClosed:
            pass  # the command line has given up


class Keys:
    """A keyboard on which these keys are pressed, one at each look; afterwards none."""

    def __init__(self, keys: str) -> None:
        self._keys = iter(keys)

    def key(self, timeout: float) -> str:
        time.sleep(0.01)
        return next(self._keys, "")


class Scene:
    """What a test of a live command sets up, and what it sees."""

    def __init__(self) -> None:
        self.gate: CommandGate | None = None
        self.asked: dict[str, object] = {}

    def gates(self, script: Script, *, status: int = 0, keys: str | None = None) -> cli.Gates:
        def run(command: Sequence[str], *, hold_timeout: float | None, on_timeout: Verdict) -> CommandGate:
            self.asked = {"command": list(command), "hold": hold_timeout, "otherwise": on_timeout}
            self.gate = CommandGate(script, status)
            return self.gate

        def driver(*, hold_timeout: float | None, on_timeout: Verdict) -> CommandGate:
            return run([], hold_timeout=hold_timeout, on_timeout=on_timeout)

        def keyboard(_: Screen) -> Keyboard | None:
            return None if keys is None else Keys(keys)

        return cli.Gates(run=run, driver=driver, keyboard=keyboard)


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    if scene.gate is not None:
        scene.gate.close()
        scene.gate.popen.wait()


def two(gate: CommandGate) -> None:
    for image in ("c:/tools/a.exe", "c:/games/chess.exe"):
        process = gate.start(image, command_line=f'"{image}" /x')
        if gate.verdict_of(process) is ALLOW:
            gate.exit(process, 3)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.toml"
    path.write_text('[[rule]]\nname = "no games"\nimage = "**/games/*"\nverdict = "block"\n', encoding="utf-8")
    return path


def without_time(text: str) -> list[str]:
    return [line[9:] if line[2:3] == ":" else line for line in text.splitlines()]


class TestRun:
    def test_it_shows_each_process_and_returns_the_commands_status(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["run", "--policy", str(policy), "--", "make", "-j2"], scene.gates(two, status=7)) == 7
        assert scene.asked == {"command": ["make", "-j2"], "hold": 60.0, "otherwise": ALLOW}
        out, err = capsys.readouterr()
        assert out == ""
        assert without_time(err) == [
            'allow   1000 c:\\tools\\a.exe  "c:/tools/a.exe" /x  [default]',
            'block   1004 c:\\games\\chess.exe  "c:/games/chess.exe" /x  [rule no games]',
            "2 held: 1 allowed, 1 blocked",
        ]

    def test_without_a_policy_all_may_run(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["run", "--exits", "make"], scene.gates(two)) == 0
        lines = without_time(capsys.readouterr().err)
        assert 'allow   1000 c:\\tools\\a.exe  "c:/tools/a.exe" /x' in lines
        assert "exit    1004 c:\\games\\chess.exe  [status 3]" in lines
        assert lines[-1] == "2 held: 2 allowed, 0 blocked"

    def test_json_is_a_decision_a_line(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cli.main(["run", "--json", "--exits", "--policy", str(policy), "make"], scene.gates(two))
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        decisions = [procmon.Decision.from_dict(line) for line in lines if line["event"] == "decision"]
        assert [(each.verdict, each.process.name) for each in decisions] == [(ALLOW, "a.exe"), (BLOCK, "chess.exe")]
        assert sum(line["event"] == "exit" for line in lines) == 2

    def test_the_audit_log_gets_each_decision_before_its_verdict_goes_out(
        self, scene: Scene, tmp_path: Path, policy: Path
    ) -> None:
        log = tmp_path / "audit.jsonl"
        cli.main(["run", "--audit", str(log), "--policy", str(policy), "make"], scene.gates(two))
        assert [(each.verdict, each.answer) for each in audit.read(log)] == [(ALLOW, None), (BLOCK, None)]

    def test_an_audit_log_that_cannot_be_written_starts_nothing(
        self, scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["run", "--audit", str(tmp_path), "make"], scene.gates(two)) == cli.FAILED
        assert scene.gate is None
        assert "it cannot be written" in capsys.readouterr().err

    def test_a_broken_policy_starts_nothing(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy.write_text("mode = 'x'", encoding="utf-8")
        assert cli.main(["run", "--policy", str(policy), "make"], scene.gates(two)) == cli.FAILED
        assert scene.gate is None
        assert 'there is no mode "x"' in capsys.readouterr().err

    def test_a_command_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        def missing(command: Sequence[str], *, hold_timeout: float | None, on_timeout: Verdict) -> CommandGate:
            raise FileNotFoundError(2, "the system cannot find the file")

        assert cli.main(["run", "--", "nonsense", "x"], cli.Gates(run=missing)) == cli.NOT_FOUND
        assert "there is no command nonsense" in capsys.readouterr().err

    def test_a_status_of_windows_fits_into_sys_exit(self) -> None:
        assert cli._exit_status(0xC0000364) == 0xC0000364 - 2**32
        assert cli._exit_status(7) == 7

    def test_ctrl_c_is_the_commands_first(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        interrupts = iter([KeyboardInterrupt, KeyboardInterrupt])
        wait = procmon.Monitor.wait

        def interrupted(monitor: procmon.Monitor, timeout: float | None = None) -> bool:
            for interrupt in interrupts:
                raise interrupt
            return wait(monitor, timeout)

        def endless(gate: CommandGate) -> None:
            time.sleep(30)

        monkeypatch.setattr(procmon.Monitor, "wait", interrupted)
        monkeypatch.setattr(subprocess.Popen, "wait", None)  # the command may go on for hours: it is not waited for
        assert cli.main(["run", "make"], scene.gates(endless)) == cli.INTERRUPTED
        monkeypatch.undo()
        assert next(interrupts, None) is None
        assert scene.gate is not None and scene.gate.closed


ASKING = '[[rule]]\nname = "new tools"\nimage = "**/tools/*"\nverdict = "ask"\n'


class TestAsking:
    @pytest.mark.parametrize(("keys", "verdict"), [("y", ALLOW), ("n", BLOCK), ("xN", BLOCK)])
    def test_a_key_answers(
        self, keys: str, verdict: Verdict, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        verdicts: list[Verdict | None] = []

        def one(gate: CommandGate) -> None:
            verdicts.append(gate.verdict_of(gate.start("c:/tools/a.exe", hold_left=30.0)))

        policy.write_text(ASKING, encoding="utf-8")
        cli.main(["run", "--policy", str(policy), "make"], scene.gates(one, keys=keys))
        assert verdicts == [verdict]
        err = capsys.readouterr().err
        assert "ask     1000 c:\\tools\\a.exe  [rule new tools]" in err
        assert "  start a.exe (1000)? y or n, 30 s left, then allow " in err
        assert f"{verdict.value}   1000 c:\\tools\\a.exe  [you]" in err

    def test_one_question_at_a_time(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        verdicts: list[Verdict | None] = []

        def three(gate: CommandGate) -> None:
            started = [gate.start(f"c:/tools/{name}.exe") for name in "abc"]
            verdicts.extend(gate.verdict_of(process) for process in started)

        policy.write_text(ASKING, encoding="utf-8")
        cli.main(["run", "--policy", str(policy), "make"], scene.gates(three, keys="yny"))
        assert verdicts == [ALLOW, BLOCK, ALLOW]
        questions = capsys.readouterr().err
        assert questions.index("start a.exe") < questions.index("start b.exe") < questions.index("start c.exe")

    @pytest.mark.parametrize("otherwise", [ALLOW, BLOCK])
    def test_without_a_terminal_it_is_said_what_happens(
        self, otherwise: Verdict, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        arguments = ["run", "--policy", str(policy), "--otherwise", otherwise.value, "make"]
        cli.main(arguments, scene.gates(two))
        err = capsys.readouterr().err
        assert f"no terminal to ask on, so `ask` is {otherwise.value}" in err
        assert f"{otherwise.value}   1000 c:\\tools\\a.exe" in err

    @pytest.mark.parametrize("otherwise", [ALLOW, BLOCK])
    def test_the_end_answers_what_is_still_asked(
        self, otherwise: Verdict, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        started: list[procmon.ProcessHelper] = []

        def one(gate: CommandGate) -> None:
            started.append(gate.start("c:/tools/a.exe"))
            time.sleep(0.3)
            _thread.interrupt_main()
            time.sleep(0.3)
            _thread.interrupt_main()
            time.sleep(30)

        policy.write_text(ASKING, encoding="utf-8")
        arguments = ["run", "--policy", str(policy), "--otherwise", otherwise.value, "make"]
        assert cli.main(arguments, scene.gates(one, keys="")) == cli.INTERRUPTED
        assert re.search("\r *\r[^\r]*1 held: ", capsys.readouterr().err)  # the question has gone
        assert scene.gate is not None and scene.gate.verdict_of(started[0]) is otherwise

    def test_lines_go_above_the_question(self) -> None:
        stream = io.StringIO()
        screen = Screen(stream)
        screen.ask("sure? ")
        screen.line("news")
        screen.ask("")
        assert stream.getvalue() == "sure? \r      \rnews\nsure? \r      \r"


class TestGuardAndWatch:
    def test_guard_applies_the_policy(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["guard", "--policy", str(policy)], scene.gates(two)) == cli.FAILED  # for the gate has ended
        out, err = capsys.readouterr()
        assert err.startswith("procmon-gate: scripted ended, nothing is held any more")
        lines = without_time(out)
        assert lines[0].endswith("policy.toml: 1 rule, enforced, no default>; Ctrl+C ends it")
        assert lines[2].startswith("block   1004 c:\\games\\chess.exe")

    def test_audit_mode_blocks_nothing(self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cli.main(["guard", "--audit-mode", "--policy", str(policy)], scene.gates(two))
        out = capsys.readouterr().out
        assert "would block   1004 c:\\games\\chess.exe" in out
        assert out.endswith("2 held: 2 allowed, 0 blocked\n")

    def test_exact_rules_go_to_the_driver_and_again_when_the_file_changes(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handed: list[object] = []

        def change(gate: CommandGate) -> None:
            policy.write_text("[[rule]]\nimage = 'c:/b.exe'\nverdict = 'allow'\n", encoding="utf-8")
            for _ in range(100):
                if len(handed) > 1:
                    break
                time.sleep(0.05)

        monkeypatch.setattr(CommandGate, "set_rules", lambda _, rules: handed.append(rules), raising=False)
        policy.write_text("[[rule]]\nimage = 'C:/a.exe'\nverdict = 'block'", encoding="utf-8")
        cli.main(["guard", "--driver-rules", "--policy", str(policy)], scene.gates(change))
        assert handed == [[("c:\\a.exe", BLOCK)], [("c:\\b.exe", ALLOW)]]
        assert "the driver itself answers for 1 exact paths" in capsys.readouterr().out
        handed.clear()
        cli.main(["guard", "--driver-rules", "--audit-mode", "--policy", str(policy)], scene.gates(lambda _: None))
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
        assert cli.main(["guard", "--driver-rules", "--policy", str(policy)], scene.gates(lambda _: None)) == cli.FAILED
        assert handed == [[("c:\\a.exe", BLOCK)], []]
        assert "no memory" in capsys.readouterr().err

    def test_watch_only_shows(self, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        cli.main(["watch"], scene.gates(two))
        assert "allow   1004 c:\\games\\chess.exe" in capsys.readouterr().out

    def test_a_changed_policy_is_read_again(self, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = io.StringIO()
        loaded = procmon.Policy.load(policy)
        reload = Reloader(loaded, Screen(stream))
        now = time.monotonic()
        for later, (text, said) in enumerate(
            [
                (None, ""),
                ("mode = 'x'", "the old rules stay in force"),
                ("default = 'block'", "0 rules, enforced, default block"),
            ],
            1,
        ):
            if text is not None:
                policy.write_text(text, encoding="utf-8")
            monkeypatch.setattr(time, "monotonic", lambda: now + 2 * later)
            reload()
            assert said in stream.getvalue()
        policy.unlink()
        monkeypatch.setattr(time, "monotonic", lambda: now + 100)
        reload()
        assert loaded.default is BLOCK

    def test_it_ends_when_nobody_reads(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        class Closed(io.StringIO):
            def write(self, text: str) -> int:
                raise BrokenPipeError(32, "broken pipe")

        def endless(gate: CommandGate) -> None:
            gate.start("c:/a.exe")
            time.sleep(30)

        monkeypatch.setattr(sys, "stdout", Closed())
        begin = time.monotonic()
        assert cli.main(["watch"], scene.gates(endless)) == 0
        assert time.monotonic() - begin < 5


class TestPolicyCommands:
    def test_check_names_the_place_as_editors_read_it(self, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["policy", "check", str(policy)]) == 0
        assert "no mistakes in <Policy" in capsys.readouterr().out
        policy.write_text("[[rule]]\nverdict = 'deny'\n\n[[rule]]\nimages = 'a'\nverdict = 'ask'", encoding="utf-8")
        assert cli.main(["policy", "check", str(policy)]) == cli.FOUND
        assert capsys.readouterr().out.splitlines() == [
            f'{policy}:2:11: there is no verdict "deny"; write "block"',
            f'{policy}:5:1: a rule has no key "images"; write image',
        ]
        assert cli.main(["policy", "check", "--json", str(policy)]) == cli.FOUND
        assert json.loads(capsys.readouterr().out.splitlines()[0])["line"] == 2

    def test_check_of_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["policy", "check", "none.toml"]) == cli.FAILED
        assert capsys.readouterr().err == "procmon-gate: none.toml: there is no such file; give the path of a policy\n"

    def test_check_of_bytes(self, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        policy.write_bytes(b"MZ\x90")
        assert cli.main(["policy", "check", str(policy)]) == cli.FOUND
        assert ":1:3: byte 0x90 is not UTF-8 text; save the policy as UTF-8" in capsys.readouterr().out

    def test_explain(self, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        policy.write_text(
            "[[rule]]\nname = 'office'\nimage = 'cmd.exe'\nancestor = 'word.exe'\nuser = 'alice'\nverdict = 'block'",
            encoding="utf-8",
        )
        described = [
            "c:/windows/cmd.exe",
            "--parent",
            "c:/x.exe",
            "--parent",
            "c:/office/word.exe",
            "--user",
            "PC\\alice",
        ]
        assert cli.main(["policy", "explain", str(policy), *described]) == 0
        out = capsys.readouterr().out
        assert out.startswith("block c:\\windows\\cmd.exe (1000) by rule office, line 1 of ")
        assert "ancestor c:\\office\\word.exe matches word.exe" in out
        assert cli.main(["policy", "explain", "--json", str(policy), "c:/windows/cmd.exe"]) == 0
        assert json.loads(capsys.readouterr().out)["decision"]["verdict"] == "allow"

    def test_explain_says_what_to_add(self, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rules = ["user = 'a'", "session = 1", "command_line = 'a b'", f"sha256 = '{'ab' * 32}'", "signer = 'a'"]
        policy.write_text("".join(f"[[rule]]\n{rule}\nverdict = 'block'\n" for rule in rules), encoding="utf-8")
        assert cli.main(["policy", "explain", str(policy), "c:/a.exe"]) == 0
        out = capsys.readouterr().out
        for fact in ("user", "session", "command line", "sha256", "signer"):
            assert f"{fact} is not known: add --{fact.replace(' ', '-')}" in out

    def test_replay(self, policy: Path, tmp_path: Path, scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
        log = tmp_path / "audit.jsonl"
        cli.main(["watch", "--audit", str(log)], scene.gates(two))
        capsys.readouterr()
        assert cli.main(["policy", "replay", str(policy), str(log)]) == 0
        assert "1 x  allow -> block  c:\\games\\chess.exe by rule no games" in capsys.readouterr().out


class TestScreen:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def line(self, stream: io.StringIO, environment: dict[str, str], image: str = "c:/a.exe") -> str:
        screen = Screen(stream, environment=environment)
        screen.write(procmon.Policy.parse("default = 'block'").decide(SimulatedGate().start(image)))
        return stream.getvalue()

    def test_colours_on_a_terminal_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("procmon._cli_screen.enable_escape_sequences", lambda _: True)  # a StringIO is no console
        assert "\x1b[31mblock\x1b[0m" in self.line(self.Terminal(), {})
        assert "\x1b" not in self.line(self.Terminal(), {"NO_COLOR": "1"})
        assert "\x1b" not in self.line(io.StringIO(), {})

    def test_nothing_that_is_read_reaches_the_terminal_unescaped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """C1 controls and marks that reverse the writing are valid in Windows' file names, and all is in TOML."""
        evil = "c:/a\x9b2J\u202e\x1b.exe"
        policy, log = tmp_path / "policy.toml", tmp_path / "audit.jsonl"
        policy.write_text(
            "[[rule]]\nname = \"\\u001b]0;\"\nimage = \"c:/a*\"\nverdict = \"block\"\n", encoding="utf-8"
        )
        with procmon.AuditLog(log) as audit_log:
            audit_log.write(procmon.Policy.parse("default = 'allow'").decide(SimulatedGate().start(evil)))
        assert cli.main(["policy", "explain", str(policy), evil]) == 0
        assert cli.main(["policy", "replay", str(policy), str(log)]) == 0
        policy.write_text("mode = \"\\u001b[2J\"\n", encoding="utf-8")
        assert cli.main(["policy", "check", str(policy)]) == 1
        assert cli.main(["policy", "explain", str(policy), evil]) == cli.FAILED
        print(procmon.ProcessTree([SimulatedGate().start(evil)]))
        shown = "".join(capsys.readouterr())
        assert shown.replace("\n", "").isprintable()
        assert shown.count("\\x9b2j") == 4  # explained twice, replayed, in the tree

    def test_names_cannot_move_the_cursor(self) -> None:
        line = self.line(io.StringIO(), {}, image="c:/\x1b[2Jnice\u202eexe.txt\n")
        assert "\\x1b[2jnice\\u202eexe.txt\\n" in line
        assert printable("größe ok") == "größe ok"


def test_a_windows_command_elsewhere_ends_with_one_line() -> None:
    if sys.platform == "win32":
        arguments = ["guard", "--policy", "none.toml"]
        expected = cli.FAILED
    else:
        arguments, expected = ["driver", "status"], cli.NEEDS_WINDOWS
    ended = subprocess.run(
        [sys.executable, "-m", "procmon", *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(procmon.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (expected, "", 1)
    assert ended.stderr.startswith("procmon-gate: ")


@pytest.mark.parametrize(
    "arguments", [[], ["run"], ["guard"], ["watch"], ["ps"], ["tree"], ["policy", "explain"], ["driver", "install"]]
)
def test_help_works_everywhere(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*arguments, "--help"]) == 0
    assert "usage: procmon-gate" in capsys.readouterr().out


def test_a_wrong_command_line_is_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "--hold", "-1", "x"]) == 2
    assert cli.main(["nonsense"]) == 2
    assert cli.main(["run", "--otherwise", "maybe", "x"]) == 2
    assert "maybe is neither allow nor block" in capsys.readouterr().err
