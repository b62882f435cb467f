"""The policies of `guard`: several act as one, they follow their files, and a decision names the policy's version."""

import io
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest

import procmon
from commandline import Scene, two
from patience import PATIENCE
from procmon import BLOCK, audit
from procmon.cli import live_policy, main
from procmon.cli.live_policy import Reloader
from procmon.cli.screen import Screen
from procmon.policy.files import read_files
from procmon.policy.parser import Source


def refuse(path: Path, *arguments: object, **options: object) -> NoReturn:
    raise PermissionError(13, "the process cannot access the file because another process uses it")


class TestPolicies:
    def test_a_changed_policy_is_read_again(self, policy: Path) -> None:
        stream = io.StringIO()
        loaded = procmon.Policy.load(policy)
        version = loaded.version
        reload = Reloader(loaded, Screen(stream), paths=[policy])
        for text, said in (
            (None, ""),
            ("mode = 'x'", f"the old rules stay in force: version {version}\n"),
            ("default = 'block'", "0 rules, enforced, default block, version "),
        ):
            if text is not None:
                policy.write_text(text, encoding="utf-8")
            reload.look()
            assert said in stream.getvalue()
        assert loaded.version != version
        policy.unlink()
        reload.look()
        reload.look()
        assert stream.getvalue().count(f"{policy} is gone; the rules stay, version {loaded.version}\n") == 1
        assert loaded.default is BLOCK

    def test_a_policy_is_read_when_it_is_written_whole(self, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An editor empties the file first; without rules every process would run."""
        whole = policy.read_text(encoding="utf-8") + "[[rule]]\nimage = 'b.exe'\nverdict = 'block'\n"
        parts = [whole[:0], whole[:70], whole]
        loaded, stream = procmon.Policy.load(policy), io.StringIO()
        sleep = time.sleep

        def write_on(seconds: float) -> None:
            sleep(0.01)
            if parts:
                policy.write_text(parts.pop(0), encoding="utf-8")

        monkeypatch.setattr("procmon.cli.live_policy.time.sleep", write_on)
        policy.write_text("", encoding="utf-8")
        Reloader(loaded, Screen(stream), paths=[policy]).look()
        assert stream.getvalue().count("\n") == 1
        assert loaded.version == procmon.Policy.parse(whole).version

    def test_a_file_that_cannot_be_read_for_a_moment_is_read_later(
        self, policy: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another program, a virus scanner say, has it open."""
        loaded, stream = procmon.Policy.load(policy), io.StringIO()
        reload = Reloader(loaded, Screen(stream), paths=[policy])
        policy.write_text("default = 'block'", encoding="utf-8")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            reload.look()
            reload.look()
        assert stream.getvalue().count("the old rules stay in force") == 1
        reload.look()
        assert loaded.default is BLOCK

    def test_of_two_reloads_the_one_that_reads_last_counts(self, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """An answer at a question reloads its file, and so does a change of the file."""
        began, go_on = threading.Event(), threading.Event()

        def read_slowly(paths: Sequence[Path]) -> list[Source]:
            sources = read_files(paths)
            if not began.is_set():
                began.set()
                go_on.wait(0.3)
            return sources

        loaded = procmon.Policy.load(policy)
        monkeypatch.setattr("procmon.policy.policy.read_files", read_slowly)
        first = threading.Thread(target=loaded.reload)
        first.start()
        assert began.wait(PATIENCE)
        policy.write_text("default = 'block'", encoding="utf-8")
        loaded.reload()
        go_on.set()
        first.join(PATIENCE)
        assert loaded.default is BLOCK

    def test_files_that_hang_delay_nothing(self, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        hangs, looked = threading.Event(), []

        def hang(_: procmon.Policy) -> bool:
            looked.append(1)
            assert hangs.wait(PATIENCE)
            return False

        monkeypatch.setattr(procmon.Policy, "has_changed", hang)
        monkeypatch.setattr(live_policy, "LOOK_EVERY_S", 0.0)
        reload = Reloader(procmon.Policy.load(policy), Screen(io.StringIO()))
        reload()
        reload()  # the first has not returned, so this one begins nothing
        hangs.set()
        reload._looking.join(PATIENCE)
        assert looked == [1]

    def test_several_policies_are_one(self, scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, folder = tmp_path / "first.toml", tmp_path / "rules.d"
        folder.mkdir()
        first.write_text('[[rule]]\nname = "tools"\nimage = "**/tools/*"\nverdict = "allow"\n', encoding="utf-8")
        games = '[[rule]]\nname = "all"\nimage = "c:/games/**"\nverdict = "block"\n'
        (folder / "a.toml").write_text(games, encoding="utf-8")
        log = tmp_path / "audit.jsonl"
        main.main(["guard", "--log", str(log), "--policy", str(first), "--policy", str(folder)], scene.gates(two))
        out = capsys.readouterr().out
        assert "allow   1000 c:\\tools\\a.exe  /x  [rule tools]" in out
        assert "block   1004 c:\\games\\chess.exe  /x  [rule all]" in out
        version = procmon.Policy.load(first, folder).version
        assert f"version {version}; Ctrl+C ends it" in out
        assert [each.policy for each in audit.read(log)] == [version, version]

    def test_the_warnings_of_a_policy_are_shown(
        self, scene: Scene, policy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        policy.write_text("mode = 'enforce'\n" + 2 * "[[rule]]\nimage = 'a.exe'\nverdict = 'block'\n", encoding="utf-8")
        main.main(["guard", "--policy", str(policy)], scene.gates(two))
        out, err = capsys.readouterr()
        assert out.startswith("warning: line 5")
        assert "PolicyWarning" not in err
