"""details.py without Windows: its texts, its cache, its answers when nothing is available."""

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import procmon
from procmon.system import details, file_facts
from procmon.system.details import Integrity, ProcessDetails
from procmon.system.signature import Signature, SignatureKind, SignatureStatus
from procmon.win32._bind import windows_error


def record(**more: object) -> procmon.ProcessHelper:
    return procmon.SimulatedGate().start("c:/tools/a.exe", **more)  # type: ignore[arg-type]


def test_a_signature_is_reported_on_one_line() -> None:
    assert repr(Signature(SignatureStatus.UNSIGNED, SignatureKind.NONE, code=0x800B0100)) == "<Signature unsigned>"
    assert (
        repr(Signature(SignatureStatus.UNTRUSTED, SignatureKind.EMBEDDED, "X", 0x800B0109))
        == "<Signature untrusted, embedded, by 'X', 0x800B0109>"
    )


def test_integrity_levels_compare_and_unknown_ones_are_kept() -> None:
    assert details._integrity(0x3000) is Integrity.HIGH
    assert details._integrity(0x2010) == 0x2010
    assert not isinstance(details._integrity(0x2010), Integrity)
    assert Integrity.MEDIUM < details._integrity(0x2010) < Integrity.HIGH


def test_a_process_that_may_not_be_opened_has_reasons_instead_of_facts() -> None:
    closed = ProcessDetails(record(flags=procmon.ProcessFlags.NAME_MISSING), None)
    for fact in ("path", "command_line", "user", "user_sid", "integrity", "elevated", "sha256", "signature", "signer"):
        assert getattr(closed, fact) is None
        assert closed.reasons[fact]
    assert "elevated Python" in closed.reasons["user"]
    assert "path of its executable" in closed.reasons["signer"]
    closed.close()
    closed.close()


def test_what_the_gate_knows_is_not_looked_up() -> None:
    assert ProcessDetails(record(command_line="a --fast"), None).command_line == "a --fast"
    truncated = record(command_line="a --f", flags=procmon.ProcessFlags.COMMAND_LINE_TRUNCATED)
    assert ProcessDetails(truncated, None).command_line is None


def test_a_fact_is_looked_up_once() -> None:
    asked: list[int] = []
    found = ProcessDetails(record(), None)
    for _ in range(3):
        assert found._once("fact", lambda: asked.append(1)) is None
    assert asked == [1]


def cached(path: Path, find: Callable[[], str]) -> str:
    with path.open("rb") as file:
        return file_facts._cache.of(str(path), file, "test", find)


def test_what_is_known_of_a_file_holds_until_the_file_is_changed(tmp_path: Path) -> None:
    file = tmp_path / "a.exe"
    file.write_bytes(b"one")
    answers = iter("abcde")

    def look() -> str:
        return next(answers)

    assert cached(file, look) == cached(file, look) == "a"
    file.write_bytes(b"three")
    assert cached(file, look) == cached(file, look) == "b"
    file.rename(tmp_path / "b.exe")
    assert cached(tmp_path / "b.exe", look) == "c"
    file.write_bytes(b"three")
    assert cached(file, look) == "d"


def test_a_file_elsewhere_with_the_same_numbers_is_another(tmp_path: Path) -> None:
    """Who prepares a disk chooses the serial of its volume, and index and times of its files."""
    (tmp_path / "a.exe").write_bytes(b"one")
    os.link(tmp_path / "a.exe", tmp_path / "b.exe")
    assert cached(tmp_path / "a.exe", lambda: "a") == "a"
    assert cached(tmp_path / "b.exe", lambda: "b") == "b"


def test_what_was_found_while_the_file_was_changed_is_not_kept(tmp_path: Path) -> None:
    file = tmp_path / "a.exe"
    file.write_bytes(b"one")

    def disturbed() -> str:
        file.write_bytes(b"four!")
        return "of neither"

    assert cached(file, disturbed) == "of neither"
    assert cached(file, lambda: "new") == "new"


def test_the_cache_forgets_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_facts.FileCache, "LIMIT", 2)
    cache = file_facts.FileCache()
    asked: list[str] = []
    for name in ("a", "b", "c", "c", "a"):
        (tmp_path / name).write_text(name) if not (tmp_path / name).exists() else None
        with (tmp_path / name).open("rb") as file:
            cache.of(name, file, "x", functools.partial(asked.append, name))
    assert asked == ["a", "b", "c", "a"]


def test_elsewhere_it_says_that_windows_is_needed() -> None:
    if sys.platform == "win32":
        assert procmon.inspect(os.getpid()).process.pid == os.getpid()
        return
    with pytest.raises(procmon.UnsupportedPlatform, match="needs Windows"):
        procmon.inspect(4)


def test_on_a_file_system_without_streams_a_file_has_no_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_streams(path: str) -> None:
        raise windows_error("CreateFileW", code)

    monkeypatch.setattr("procmon.win32.files.open_shared", without_streams)
    code = 123  # ERROR_INVALID_NAME, as FAT answers
    assert file_facts.origin("e:\\a.exe") is None
    code = 5
    with pytest.raises(OSError, match="5"):
        file_facts.origin("e:\\a.exe")
