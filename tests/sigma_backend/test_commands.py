"""The two ways to convert: sigma-cli with the backend, and convert.py."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from .conftest import BACKEND, rule

SIGMA = Path(sys.executable).with_name("sigma.exe" if sys.platform == "win32" else "sigma")


def sigma(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [str(SIGMA), *map(str, arguments)]
    paths = {**os.environ, "PYTHONPATH": str(BACKEND)}
    return subprocess.run(command, capture_output=True, text=True, env=paths, timeout=120, check=False)


def convert(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(BACKEND / "convert.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def two_rules(tmp_path: Path) -> Path:
    """A folder with a rule that a policy can express and one that it cannot."""
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "a.yml").write_text(rule("a: {Image|endswith: a.exe}\ncondition: a", level="critical"), encoding="utf-8")
    odd = rule("a: {CommandLine|re: a+}\ncondition: a", "Odd")
    (folder / "odd.yml").write_text(odd.replace("99c8be4f", "99c8be40"), encoding="utf-8")
    return folder


def test_sigma_finds_the_backend() -> None:
    assert "procmon-gate policy" in sigma("list", "targets").stdout


def test_both_ways_write_the_same_policy(two_rules: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.toml", tmp_path / "second.toml"
    ended = sigma("convert", "-s", "-t", "procmon", "-O", "block=critical", "-O", "ask=high", two_rules, "-o", first)
    assert ended.returncode == 0, ended.stderr
    assert "odd.yml: a regular expression" in ended.stderr
    ended = convert(two_rules, "-o", second, "--block", "critical", "--ask", "high")
    assert ended.returncode == 0, ended.stderr
    assert "1 rules in" in ended.stderr and "odd.yml: Odd: a regular expression" in ended.stderr
    assert first.read_text(encoding="utf-8").strip() == second.read_text(encoding="utf-8").strip()
    [made] = tomllib.loads(second.read_text(encoding="utf-8"))["rule"]
    assert made["verdict"] == "block" and "audit" not in made


def test_without_s_sigma_ends_at_the_first_rule_that_cannot_be_said(two_rules: Path, tmp_path: Path) -> None:
    ended = sigma("convert", "-t", "procmon", two_rules, "-o", tmp_path / "policy.toml")
    assert ended.returncode != 0
    assert "a regular expression" in ended.stderr


@pytest.mark.parametrize(
    ("option", "message"),
    [("block=severe", "there is no such level"), ("blok=high", "Parameter 'blok' is not supported")],
)
def test_a_wrong_option_is_named(two_rules: Path, option: str, message: str) -> None:
    ended = sigma("convert", "-s", "-t", "procmon", "-O", option, two_rules)
    assert ended.returncode != 0
    assert message in ended.stderr


def test_convert_says_what_is_wrong(tmp_path: Path) -> None:
    ended = convert(tmp_path / "none", "-o", tmp_path / "policy.toml")
    assert (ended.returncode, ended.stderr) == (
        1,
        f"convert.py: there is no {tmp_path / 'none'}; give Sigma rules, or folders of them\n",
    )
    broken = tmp_path / "broken.yml"
    broken.write_text("title: [", encoding="utf-8")
    ended = convert(broken, "-o", tmp_path / "policy.toml")
    assert ended.returncode == 1
    assert "broken.yml" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_convert_lists_files_that_have_no_rule_and_converts_the_rest(two_rules: Path, tmp_path: Path) -> None:
    aliases = rule("a: &a [*a, {Image: x}]\ncondition: a").encode()
    written = {
        "alias.yml": aliases,
        "text.yml": b"just text",
        "list.yml": b"[a]",
        "broken.yml": b"title: [",
        "bytes.yml": b"\xff\xfe",
    }
    for name, content in written.items():
        (two_rules / name).write_bytes(content)
    other = rule("a: {Image|endswith: b.exe}\ncondition: a", "Other").replace("99c8be4f", "99c8be41")
    (two_rules / "other.yaml").write_text(other, encoding="utf-8")
    ended = convert(two_rules, "-o", tmp_path / "policy.toml")
    assert ended.returncode == 0, ended.stderr
    first, second, *reasons = ended.stderr.splitlines()
    assert first.startswith("2 rules in ")
    assert second == "6 left out:"
    assert [reason.split(":")[0].strip() for reason in reasons] == [*sorted(written), "odd.yml"]
    assert "  list.yml: it is no Sigma rule" in reasons


def test_a_rule_with_a_key_twice_is_left_out_since_yaml_forgets_the_first(tmp_path: Path) -> None:
    file = tmp_path / "twice.yml"
    file.write_text(rule("a:\n  CommandLine|contains: x\n  CommandLine|contains: y\ncondition: a"), encoding="utf-8")
    for ended in (convert(file, "-o", tmp_path / "p.toml"), sigma("convert", "-s", "-t", "procmon", file)):
        assert "CommandLine|contains stands twice in one map" in ended.stderr


def test_aliases_of_a_file_are_read_once(tmp_path: Path) -> None:
    aliases = "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))
    text = rule("a: {Image: x}\ncondition: a") + f"a0: &a0 [&b [*b]]\n{aliases}\n"
    (tmp_path / "aliases.yml").write_text(text, encoding="utf-8")
    ended = convert(tmp_path / "aliases.yml", "-o", tmp_path / "policy.toml")
    assert ended.returncode == 0, ended.stderr
