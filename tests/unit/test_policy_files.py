"""Policies as files: read, reloaded while they decide, broken, and large."""

import logging
import os
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import procmon
from procmon import ALLOW, BLOCK, Policy, PolicyError, ProcessHelper

gate = procmon.SimulatedGate()


def process(image: str, parent: ProcessHelper | None = None) -> ProcessHelper:
    return gate.start(image, parent_pid=parent.pid if parent else 4)


@pytest.fixture
def policy_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "policy.toml"
    path.write_text("[[rule]]\nimage = 'a.exe'\nverdict = 'block'\n", encoding="utf-8")
    yield path


class TestFiles:
    def test_a_reload_takes_the_new_rules(self, policy_file: Path) -> None:
        policy = Policy.load(policy_file)
        policy_file.write_text("default = 'block'\n", encoding="utf-8")
        policy.reload()
        assert policy.decide(process("c:/b.exe")).verdict is BLOCK
        assert len(policy) == 0

    def test_it_sees_that_its_file_has_changed(self, policy_file: Path) -> None:
        policy = Policy.load(policy_file)
        assert not policy.has_changed()
        policy_file.write_text("mode = 'x'", encoding="utf-8")
        assert policy.has_changed()
        with pytest.raises(PolicyError):
            policy.reload()
        assert not policy.has_changed()  # the broken one has been read, and need not be again
        policy_file.unlink()
        assert not policy.has_changed()
        policy_file.write_text("", encoding="utf-8")
        assert policy.has_changed()

    @pytest.mark.parametrize("broken", [b"[[rule]]\nimage = ", b"mode = 'x'", b"\xff\xfe\0", None])
    def test_a_broken_file_keeps_the_old_rules_and_says_so(
        self, policy_file: Path, broken: bytes | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy = Policy.load(policy_file)
        policy.decide(process("c:/a.exe"))
        if broken is None:
            policy_file.unlink()
        else:
            policy_file.write_bytes(broken)
        with caplog.at_level(logging.ERROR, "procmon"), pytest.raises(PolicyError, match="the old rules stay in force"):
            policy.reload()
        assert "the old rules stay in force" in caplog.text
        assert policy.decide(process("c:/a.exe")).verdict is BLOCK
        assert policy.hits["1"] == 2

    def test_a_text_cannot_be_reloaded(self) -> None:
        with pytest.raises(PolicyError, match="not loaded from a file"):
            Policy.parse("").reload()

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyError, match="there is no such file"):
            Policy.load(tmp_path / "none.toml")

    def test_a_folder_without_policies(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyError, match=r"there is no \*\.toml in this folder"):
            Policy.load(tmp_path)

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    def test_utf16_is_named(self, policy_file: Path, encoding: str) -> None:
        policy_file.write_bytes("mode = 'audit'\n".encode(encoding))
        with pytest.raises(PolicyError, match="the file is UTF-16.*; save the policy as UTF-8"):
            Policy.load(policy_file)

    def test_binary(self, policy_file: Path) -> None:
        policy_file.write_bytes(b"mode = 'audit'\nMZ\x90\x00\x03\xff")
        with pytest.raises(PolicyError, match="byte 0x90 is not UTF-8 text") as caught:
            Policy.load(policy_file)
        assert (caught.value.problems[0].line, caught.value.problems[0].column) == (2, 3)

    def test_utf8_with_a_mark_as_notepad_saves_it(self, policy_file: Path) -> None:
        policy_file.write_bytes(b"\xef\xbb\xbfdefault = 'block'\r\n[[rule]]\r\nname = 'x'\r\nverdict = 'ask'\r\n")
        assert len(Policy.load(policy_file)) == 1

    def test_ten_megabytes_of_rules_load(self, policy_file: Path) -> None:
        paths = "".join(f'  "c:/programs/vendor{i:06}/program{i:06}.exe",\n' for i in range(220_000))
        policy_file.write_text(f"[[rule]]\nverdict = 'block'\nimage = [\n{paths}]\n", encoding="utf-8")
        assert policy_file.stat().st_size > 10_000_000
        policy = Policy.load(policy_file)
        assert policy.decide(process("c:/programs/vendor123456/program123456.exe")).verdict is BLOCK

    @pytest.mark.parametrize(
        "noise", ["[" * 10_000_000, "\n" * 9_999_999 + "x", "x" * 10_000_000, '"' * 10_000_000, "a." * 5_000_000]
    )
    def test_ten_megabytes_of_noise_are_refused(self, policy_file: Path, noise: str) -> None:
        policy_file.write_text(noise, encoding="utf-8")
        with pytest.raises(PolicyError, match="a mistake in the policy") as caught:
            Policy.load(policy_file)
        assert len(str(caught.value)) < 1000

    def test_a_file_larger_than_any_policy_is_refused(self, policy_file: Path) -> None:
        with policy_file.open("r+b") as file:
            file.truncate(64 * 2**20 + 1)
        with pytest.raises(PolicyError, match="larger than 64 MB"):
            Policy.load(policy_file)

    @pytest.mark.parametrize(
        "content", [b"\xff\xfe\0", b"mode = 'x'", b"[[rule]]\nimage = ", b"x" * 10_000_000, b"\0" * (64 * 2**20 + 1)]
    )
    def test_a_file_that_is_refused_is_closed(self, policy_file: Path, content: bytes) -> None:
        policy = Policy.load(policy_file)
        policy_file.write_bytes(content)
        with pytest.raises(PolicyError) as caught:
            policy.reload()
        policy_file.rename(policy_file.with_suffix(".old"))  # which Windows refuses while it is open
        open_files = Path("/proc/self/fd")  # elsewhere
        links = [os.readlink(link) for link in open_files.iterdir() if link.exists()] if open_files.is_dir() else []
        assert not any("policy" in link for link in links)
        assert str(policy_file) in str(caught.value)

    def test_no_decision_sees_half_of_a_reload(self, policy_file: Path) -> None:
        texts = [
            "mode = 'audit'\n[[rule]]\nname = 'one'\nimage = 'a.exe'\nverdict = 'block'\n",
            "default = 'block'\n[[rule]]\nname = 'two'\nimage = 'a.exe'\nverdict = 'allow'\n",
        ]
        policy_file.write_text(texts[0], encoding="utf-8")
        policy = Policy.load(policy_file)
        a, b = process("c:/a.exe"), process("c:/b.exe")
        seen = set()
        done = threading.Event()

        def decide() -> None:
            while not done.is_set():
                for decision in (policy.decide(a), policy.decide(b)):
                    seen.add((decision.process.name, decision.who, decision.verdict, decision.audited))

        thread = threading.Thread(target=decide)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)  # the threads take turns within a decision
        thread.start()
        try:
            for i in range(100):
                policy_file.write_text(texts[i % 2], encoding="utf-8")
                policy.reload()
        finally:
            sys.setswitchinterval(interval)
            done.set()
            thread.join()
        assert seen <= {
            ("a.exe", "one", BLOCK, True), ("b.exe", "", ALLOW, False),
            ("a.exe", "two", ALLOW, False), ("b.exe", "", BLOCK, False),
        }  # fmt: skip
        assert {who for _, who, _, _ in seen} == {"one", "two", ""}


class TestSeveralFiles:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "rules.d"
        folder.mkdir()
        texts = {
            "20-allow.toml": "[[rule]]\nimage = 'a.exe'\nverdict = 'allow'\n",
            "10-block.TOML": "default = 'block'\n[[rule]]\nimage = 'c:/x/**'\nverdict = 'block'\n",
            "30-more.toml": "[[rule]]\nname = 'more'\nimage = 'b.exe'\nverdict = 'allow'\n",
            "notes.txt": "no policy",
        }
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        return folder

    def test_a_folder_is_read_in_the_order_of_its_names(self, folder: Path) -> None:
        policy = Policy.load(folder)
        assert len(policy) == 3
        assert policy.decide(process("c:/x/a.exe")).who == "10-block.TOML:1"
        assert policy.decide(process("c:/y/a.exe")).who == "20-allow.toml:1"
        assert policy.decide(process("c:/y/b.exe")).who == "more"
        assert policy.decide(process("c:/y/c.exe")).verdict is BLOCK
        explained = str(policy.explain(process("c:/y/a.exe"))).splitlines()[0]
        assert explained.endswith(f"by rule 20-allow.toml:1, line 1 of {folder / '20-allow.toml'}")

    def test_files_are_read_in_the_order_given(self, folder: Path, policy_file: Path) -> None:
        assert Policy.load(policy_file, folder).decide(process("c:/y/a.exe")).who == "policy.toml:1"
        assert Policy.load(folder, policy_file).decide(process("c:/y/a.exe")).who == "20-allow.toml:1"

    def test_a_mistake_is_reported_with_its_file(self, folder: Path) -> None:
        (folder / "25.toml").write_text("[[rule]]\nname = 'more'\nimage = ''\nverdict = 'allow'\n", encoding="utf-8")
        with pytest.raises(PolicyError) as caught:
            Policy.load(folder)
        shown = [str(problem) for problem in caught.value.problems]
        assert shown[0].startswith(f"{folder / '25.toml'}, line 3, column 9: an empty image matches nothing")
        assert shown[1] == (
            f'{folder / "30-more.toml"}, line 2, column 8: rule 1 of {folder / "25.toml"} is named "more" too; '
            "give each rule a name of its own"
        )

    def test_two_files_that_contradict_each_other_are_refused(self, folder: Path) -> None:
        (folder / "40.toml").write_text("default = 'allow'\n", encoding="utf-8")
        with pytest.raises(
            PolicyError, match='40.toml, line 1, column 11: .*10-block.TOML says default = "block"; let'
        ):
            Policy.load(folder)

    def test_a_reload_sees_files_that_come_and_go(self, folder: Path) -> None:
        policy = Policy.load(folder)
        assert not policy.has_changed()
        (folder / "20-allow.toml").unlink()
        assert policy.has_changed()
        policy.reload()
        assert (len(policy), policy.has_changed()) == (2, False)
        (folder / "05.toml").write_text("[[rule]]\nimage = 'c.exe'\nverdict = 'allow'\n", encoding="utf-8")
        assert policy.has_changed()

    def test_a_rule_that_never_decides_because_of_another_file_is_warned_of(self, folder: Path) -> None:
        (folder / "50.toml").write_text("[[rule]]\nimage = 'c:/x/a.exe'\nverdict = 'allow'\n", encoding="utf-8")
        with pytest.warns(
            procmon.PolicyWarning, match="rule 50.toml:1 never decides: rule 10-block.TOML:1 matches all"
        ):
            policy = Policy.load(folder)
        [problem] = policy.warnings
        assert problem.source == str(folder / "50.toml")

    def test_the_version_follows_the_texts_alone(self, folder: Path, tmp_path: Path) -> None:
        before = Policy.load(folder)
        assert before.version == Policy.load(folder.rename(tmp_path / "other.d")).version
        path = tmp_path / "other.d" / "30-more.toml"
        path.write_text(path.read_text(encoding="utf-8") + "# more\n", encoding="utf-8")
        assert Policy.load(tmp_path / "other.d").version != before.version
        assert before.decide(process("c:/a.exe")).policy == before.version


def test_warnings_are_printed_and_logged(policy_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    policy_file.write_text("[[rule]]\nimage = 'notepad'\nverdict = 'block'\n", encoding="utf-8")
    with pytest.warns(procmon.PolicyWarning, match='line 2, column 9: "notepad" would have to be the whole name'):
        policy = Policy.load(policy_file)
    assert '"notepad" would have to be the whole name' in caplog.text
    assert [problem.line for problem in policy.warnings] == [2]
    policy_file.write_text("[[rule]]\nimage = 'notepad.exe'\nverdict = 'block'\n", encoding="utf-8")
    policy.reload()
    assert policy.warnings == ()


def many(count: int) -> str:
    """Rules by path, parent and hash in turn."""
    kinds = ("image = 'c:/v{0}/a{0}.exe'", "parent = 'c:/v{0}/a{0}.exe'", "sha256 = '{0:064x}'")
    return "".join(f"[[rule]]\n{kinds[i % 3].format(i)}\nverdict = 'block'\n" for i in range(count))


def test_the_last_of_many_rules_is_found() -> None:
    large = Policy.parse(many(30_000), details=lambda _: SimpleNamespace(sha256="f" * 64))
    assert large.decide(process("c:/v29997/a29997.exe")).who == "29998"
    parent = process("c:/v29998/a29998.exe")
    large.decide(parent)
    assert large.decide(process("c:/x.exe", parent)).who == "29999"
    assert large.decide(process("c:/y.exe")).who == ""


def test_a_rule_takes_little_memory_and_what_it_was_read_from_is_not_kept() -> None:
    text = many(20_000)
    Policy.parse(text[:1000].rpartition("[[")[0])  # what is made once
    tracemalloc.start()
    try:
        policy = Policy.parse(text)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 1000 * len(policy)
    assert peak < 1500 * len(policy)


def test_a_mistake_behind_100_000_rules_is_reported_with_its_line() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy.parse(many(100_000) + "[[rule]]\nimage = 'a.exe'\n  verdict = 'deny'\n")
    assert [(problem.line, problem.column) for problem in caught.value.problems] == [(300_003, 13)]
