"""``procmon-gate policy learn`` on the machine of the log: facts that the log lacks come from the files."""

import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from patience import PATIENCE
from procmon.cli import main
from procmon.win32.kernel import is_wine


def test_what_ran_is_learned_from_the_log_and_from_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, log, policy = tmp_path / "tool.exe", tmp_path / "audit.jsonl", tmp_path / "learned.toml"
    program.write_bytes(Path(os.environ["SystemRoot"], "System32", "hostname.exe").read_bytes())
    command = [sys.executable, "-m", "procmon", "run", "--log", str(log), "--", str(program)]
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=PATIENCE, check=True)
    assert main.main(["policy", "learn", str(log), "-o", str(policy)]) == 0
    [rule] = tomllib.loads(policy.read_text(encoding="utf-8"))["rule"]
    if is_wine():  # whose programs are not signed
        assert rule["sha256"] == [hashlib.sha256(program.read_bytes()).hexdigest()]
    else:
        assert rule["signer"] == {"equals": "Microsoft Windows"}
    program.write_bytes(program.read_bytes() + b"changed")  # so nothing says any more which bytes ran
    capsys.readouterr()
    assert main.main(["policy", "learn", str(log)]) == 0
    learned = capsys.readouterr().out
    assert "# not learned: " in learned and "[[rule]]" not in learned
