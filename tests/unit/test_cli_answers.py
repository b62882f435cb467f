"""Remembered answers: the keys beyond yes and no, and the file of ``--answers``."""

import threading
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import procmon
from commandline import ASKING, CommandGate, Scene
from patience import PATIENCE
from procmon import ALLOW, BLOCK, PolicyError, ProcessHelper, Verdict
from procmon.cli import main
from procmon.cli.answers import HEADER, Answers

HASH = "ab" * 32
DETAILS = SimpleNamespace(signer="Example Ltd", sha256=HASH, user=r"PC\alice", reasons={"origin": "it has no mark"})

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "answers.toml"


def kept(file: Path) -> list[dict[str, object]]:
    """The rules of the file without their names."""
    rules = tomllib.loads(file.read_text(encoding="utf-8")).get("rule", [])
    return [{key: value for key, value in rule.items() if key != "name"} for rule in rules]


class Asked:
    """Runs a command that starts some tools, with these keys."""

    def __init__(self, scene: Scene, policy: Path, file: Path | None) -> None:
        policy.write_text(ASKING, encoding="utf-8")
        self._scene, self._policy, self._file = scene, policy, file
        self.details: object = DETAILS

    def __call__(self, keys: str, *images: str) -> list[Verdict | None]:
        verdicts: list[Verdict | None] = []

        def script(gate: CommandGate) -> None:
            for image in images or ("c:/tools/a.exe",):
                verdicts.append(gate.verdict_of(gate.start(image)))

        gates = replace(self._scene.gates(script, keys=keys), inspect=self._look_up)
        arguments = ["run", "--policy", str(self._policy)]
        arguments += ["--answers", str(self._file)] if self._file is not None else []
        main.main([*arguments, "--", "make"], gates)
        return verdicts

    def _look_up(self, process: ProcessHelper) -> object:
        if isinstance(self.details, Exception):
            raise self.details
        return self.details


@pytest.fixture
def asked(scene: Scene, policy: Path, file: Path) -> Asked:
    return Asked(scene, policy, file)


@pytest.mark.parametrize(
    ("keys", "verdict", "rule"),
    [
        ("ap", ALLOW, {"verdict": "allow", "image": {"equals": r"c:\tools\a.exe"}}),
        ("vp", BLOCK, {"verdict": "block", "image": {"equals": r"c:\tools\a.exe"}}),
        ("as", ALLOW, {"verdict": "allow", "signer": {"equals": "Example Ltd"}}),
        ("VH", BLOCK, {"verdict": "block", "sha256": {"equals": HASH}}),
        ("axvp", BLOCK, {"verdict": "block", "image": {"equals": r"c:\tools\a.exe"}}),  # x goes back to the question
    ],
)
def test_always_and_never_are_kept_by_path_signer_or_hash(
    keys: str, verdict: Verdict, rule: dict[str, object], asked: Asked, file: Path
) -> None:
    assert asked(keys) == [verdict]
    assert kept(file) == [rule]


def test_a_kept_answer_is_not_asked_for_again(asked: Asked, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked("ap", "c:/tools/a.exe", "c:/tools/a.exe") == [ALLOW, ALLOW]
    first = capsys.readouterr().err
    assert first.count("let a.exe (1000) run?") and "let a.exe (1004) run?" not in first
    assert f"kept in {file}: a.exe always, answered " in first
    assert "allow   1004 c:\\tools\\a.exe  [rule a.exe always, answered " in first
    assert asked("") == [ALLOW]  # and another run reads the file
    assert "run?" not in capsys.readouterr().err


def test_an_answer_comes_before_the_policy(asked: Asked, policy: Path, file: Path) -> None:
    file.write_text('[[rule]]\nimage = "a.exe"\nverdict = "block"\n', encoding="utf-8")
    policy.write_text('[[rule]]\nimage = "a.exe"\nverdict = "allow"\n', encoding="utf-8")
    assert asked("") == [BLOCK]


def test_an_answer_also_answers_what_waits_already(scene: Scene, policy: Path, file: Path) -> None:
    verdicts: list[Verdict | None] = []

    def script(gate: CommandGate) -> None:
        started = [gate.start("c:/tools/a.exe") for _ in range(3)]
        verdicts.extend(gate.verdict_of(process) for process in started)

    policy.write_text(ASKING, encoding="utf-8")
    arguments = ["run", "--policy", str(policy), "--answers", str(file), "--", "make"]
    main.main(arguments, scene.gates(script, keys="ap"))
    assert verdicts == [ALLOW, ALLOW, ALLOW]


def test_one_allows_for_an_hour(asked: Asked, file: Path) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert asked("1") == [ALLOW]
    [rule] = kept(file)
    until = rule.pop("until")
    assert isinstance(until, datetime)
    assert before + timedelta(hours=1) <= until <= datetime.now(UTC) + timedelta(hours=1)
    assert rule == {"verdict": "allow", "image": {"equals": r"c:\tools\a.exe"}}


def test_an_answer_for_an_hour_ends_with_it(file: Path) -> None:
    answers = Answers(file, lambda _: DETAILS)
    process = ProcessHelper(pid=8, parent_pid=4, image_name=r"c:\a.exe")
    answers.keep(process, ALLOW, "p", at=datetime.now(UTC), lasts=timedelta(hours=1))
    assert answers(process) is not None
    answers.keep(replace(process, image_name=r"c:\b.exe"), ALLOW, "p", at=NOW - timedelta(days=9), lasts=timedelta(1))
    assert answers(replace(process, image_name=r"c:\b.exe")) is None


@pytest.mark.parametrize("keys", ["an", "1n", "vn"])
def test_without_a_file_nothing_is_kept_and_a_line_says_what_to_add(
    keys: str, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Asked(scene, policy, None)(keys) == [BLOCK]
    shown = capsys.readouterr().err
    assert "answers are kept in a file; begin with --answers FILE" in shown
    assert "let a.exe (1000) run? [y/n/i/?]" in shown


def test_details_and_help_are_shown_and_the_question_stays(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    assert asked("i?y") == [ALLOW]
    shown = capsys.readouterr().err
    for line in ("  signer: Example Ltd", f"  sha256: {HASH}", "  origin: not known: it has no mark"):
        assert line in shown.splitlines()
    assert "  started by nothing that is known" in shown
    assert "v  never let it run" in shown and "let a.exe (1000) run? [y/n/a/v/1/i/?]" in shown


def test_parents_are_shown_up_to_the_first_that_is_known(
    scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_text(ASKING, encoding="utf-8")

    def script(gate: CommandGate) -> None:
        shell = gate.start("c:/windows/explorer.exe", parent_pid=4)
        prompt = gate.start("c:/windows/cmd.exe", parent_pid=shell.pid)
        gate.verdict_of(gate.start("c:/tools/a.exe", parent_pid=prompt.pid))

    gates = replace(scene.gates(script, keys="iy"), inspect=lambda _: DETAILS)
    main.main(["run", "--policy", str(policy), "--", "make"], gates)
    assert "  started by cmd.exe (1004) < explorer.exe (1000)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("details", "keys", "message"),
    [
        (SimpleNamespace(signer=None), "as", "its signer is not known: answer by path or hash"),
        (SimpleNamespace(), "ah", "its hash is not known: answer by path"),
        (procmon.AccessDenied("no"), "vs", "its signer is not known: no"),
        (procmon.AccessDenied("no"), "i", "  its details are not known: no"),
    ],
)
def test_what_is_not_known_is_said_and_the_question_stays(
    details: object, keys: str, message: str, asked: Asked, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.details = details
    assert asked(keys + "xn") == [BLOCK]
    assert message in capsys.readouterr().err.splitlines()
    assert kept(file) == []


def test_a_file_that_was_broken_meanwhile_keeps_no_answer(
    asked: Asked, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Answers.keep

    def after_an_edit(self: Answers, *arguments: object, **options: object) -> str:
        file.write_text("[[rule]\n", encoding="utf-8")
        return keep(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Answers, "keep", after_an_edit)
    assert asked("apxn") == [BLOCK]
    assert "the old rules stay in force" in capsys.readouterr().err


def test_a_broken_file_of_answers_is_an_error_at_the_start(
    asked: Asked, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text("[[rule]\n", encoding="utf-8")
    assert asked("") == []
    assert str(file) in capsys.readouterr().err


def test_the_file_is_made_with_a_remark_and_is_a_policy(file: Path, tmp_path: Path) -> None:
    answers = Answers(file, lambda _: DETAILS)
    assert file.read_text(encoding="utf-8") == HEADER
    process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\it's [1]\\ü.exe")
    names = [answers.keep(process, ALLOW, "p", at=NOW) for _ in range(2)]
    assert names == ["ü.exe always, answered 2026-01-31 12:00:00", "ü.exe always, answered 2026-01-31 12:00:00 (2)"]
    decision = answers(process)
    assert decision is not None and decision.verdict is ALLOW
    assert [problem for problem in procmon.Policy.check_file(file) if problem.fatal] == []
    with pytest.raises(PolicyError, match="cannot be written"):
        Answers(tmp_path / "none" / "answers.toml", lambda _: DETAILS)


def test_a_default_in_the_file_of_answers_decides_nothing(file: Path) -> None:
    file.write_text('default = "block"\n', encoding="utf-8")
    assert Answers(file, lambda _: DETAILS)(ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe")) is None


def test_guard_reads_an_edited_file_of_answers(scene: Scene, policy: Path, file: Path) -> None:
    policy.write_text('default = "allow"\n', encoding="utf-8")
    verdicts: list[Verdict | None] = []
    reloaded = threading.Event()
    reload: Callable[[procmon.Policy], None] = procmon.Policy.reload

    def script(gate: CommandGate) -> None:
        verdicts.append(gate.verdict_of(gate.start("c:/tools/a.exe")))
        file.write_text('[[rule]]\nimage = "a.exe"\nverdict = "block"\n', encoding="utf-8")
        assert reloaded.wait(PATIENCE)
        verdicts.append(gate.verdict_of(gate.start("c:/tools/a.exe")))

    def reloading(self: procmon.Policy) -> None:
        reload(self)
        reloaded.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(procmon.Policy, "reload", reloading)
        main.main(["guard", "--policy", str(policy), "--answers", str(file)], scene.gates(script, keys=""))
    assert verdicts == [ALLOW, BLOCK]


def test_the_driver_cannot_decide_what_answers_may_decide(
    policy: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["guard", "--driver-rules", "--policy", str(policy), "--answers", str(file)]
    assert main.main(arguments) == 2
    assert "the driver does not know the answers" in capsys.readouterr().err


def test_a_name_that_no_policy_can_say_ends_no_questions(scene: Scene, policy: Path, file: Path) -> None:
    """A lone surrogate: Windows accepts it in a file name, and TOML cannot write it."""
    verdicts = Asked(scene, policy, file)("apxyn", "c:/tools/\ud800.exe", "c:/tools/b.exe")
    assert verdicts == [ALLOW, BLOCK]
    assert kept(file) == []


def test_questions_that_fail_end_the_session_and_say_why(
    asked: Asked, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no question can be shown")

    monkeypatch.setattr("procmon.cli.prompts.question_lines", fail)
    asked("y")
    assert "procmon-gate: no question can be shown" in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_rule(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(file, lambda _: DETAILS)
    process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe")
    answers.keep(process, ALLOW, "p", at=NOW)
    before = file.read_bytes()

    class Full(FileIO):
        def write(self, data: Any) -> int:
            return super().write(data[:30])

    monkeypatch.setattr(Path, "open", lambda path, mode, **_: Full(path, mode))
    with pytest.raises(PolicyError, match="No space left on device"):
        answers.keep(process, BLOCK, "h", at=NOW)
    monkeypatch.undo()
    assert file.read_bytes() == before
    Answers(file, lambda _: DETAILS)
