"""``procmon-gate policy`` check, explain and replay of an audit log."""

import json
from pathlib import Path

import pytest

import procmon
from commandline import Scene, two
from procmon import ALLOW
from procmon.cli import main, statuses


class TestPolicyCommands:
    def test_check_names_the_place_as_editors_read_it(self, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["policy", "check", str(policy)]) == 0
        assert "no mistakes in <Policy" in capsys.readouterr().out
        policy.write_text("[[rule]]\nverdict = 'deny'\n\n[[rule]]\nimages = 'a'\nverdict = 'ask'", encoding="utf-8")
        assert main.main(["policy", "check", str(policy)]) == statuses.FOUND
        assert capsys.readouterr().out.splitlines() == [
            f'{policy}:2:11: there is no verdict "deny"; write "block"',
            f'{policy}:5:1: a rule has no key "images"; write image',
        ]
        assert main.main(["policy", "check", "--json", str(policy)]) == statuses.FOUND
        assert json.loads(capsys.readouterr().out.splitlines()[0])["line"] == 2

    def test_check_of_a_file_that_is_not_there(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["policy", "check", "none.toml"]) == statuses.FAILED
        assert capsys.readouterr().err == "procmon-gate: none.toml: there is no such file; give the path of a policy\n"

    def test_check_of_bytes(self, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        policy.write_bytes(b"MZ\x90")
        assert main.main(["policy", "check", str(policy)]) == statuses.FOUND
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
        assert main.main(["policy", "explain", str(policy), *described]) == 0
        out = capsys.readouterr().out
        assert out.startswith("block c:\\windows\\cmd.exe (1000) by rule office, line 1 of ")
        assert "ancestor c:\\office\\word.exe matches word.exe" in out
        assert main.main(["policy", "explain", "--json", str(policy), "c:/windows/cmd.exe"]) == 0
        assert json.loads(capsys.readouterr().out)["decision"]["verdict"] == "allow"

    def test_explain_says_what_to_add(self, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rules = ["user = 'a'", "session = 1", "command_line = 'a b'", f"sha256 = '{'ab' * 32}'", "signer = 'a'"]
        policy.write_text("".join(f"[[rule]]\n{rule}\nverdict = 'block'\n" for rule in rules), encoding="utf-8")
        assert main.main(["policy", "explain", str(policy), "c:/a.exe"]) == 0
        out = capsys.readouterr().out
        for fact in ("user", "session", "command line", "sha256", "signer"):
            assert f"{fact} is not known: add --{fact.replace(' ', '-')}" in out

    @pytest.fixture
    def log(self, tmp_path: Path, scene: Scene, capsys: pytest.CaptureFixture[str]) -> Path:
        log = tmp_path / "audit.jsonl"
        main.main(["watch", "--log", str(log)], scene.gates(two))
        capsys.readouterr()
        return log

    def test_replay(self, policy: Path, log: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main.main(["policy", "replay", str(policy), str(log)]) == 0
        assert "1 x  allow -> block  c:\\games\\chess.exe by rule no games" in capsys.readouterr().out

    def test_replay_tells_machines_all_that_it_tells_people(
        self, policy: Path, log: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with policy.open("a", encoding="utf-8") as file:
            file.write('[[rule]]\nname = "by user"\nuser = "*"\nverdict = "ask"\n')
        with log.open("a", encoding="utf-8") as file:
            file.write('{"verdict": "blo')
        assert main.main(["policy", "replay", "--json", str(policy), str(log)]) == 0
        change, missing, damaged, summary = map(json.loads, capsys.readouterr().out.splitlines())
        assert procmon.Decision.from_dict(change["then"]).verdict is ALLOW
        assert procmon.Decision.from_dict(change["now"]).who == "no games"
        assert change.keys() == {"event", "then", "now"}
        assert missing == {"event": "missing", "fact": "user", "processes": 1}
        reason = "it ends in the middle"
        assert damaged == {"event": "damaged", "path": str(log), "line": 6, "reason": reason}  # the start is the first
        assert summary == {"event": "summary", "decisions": 2, "changed": 1, "same": 1}

    def test_replay_of_a_log_that_is_not_there_names_the_option_that_writes_one(
        self, policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main.main(["policy", "replay", str(policy), str(tmp_path / "none.jsonl")]) == statuses.FAILED
        assert "give the path that AuditLog, or --log, was given" in capsys.readouterr().err
