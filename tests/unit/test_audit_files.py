"""The files of an audit log: rotated, removed, refused, on a full disk. No line is lost or merged."""

import errno
import json
import logging
import os
import sys
from io import FileIO
from pathlib import Path
from typing import Any, NoReturn

import pytest

from audits import decision, numbers
from procmon import AuditError, audit
from procmon.audit import AuditLog
from procmon.util import line_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def test_a_closed_log_has_no_file_open(path: Path) -> None:
    with AuditLog(path) as log:
        log.write(decision(1))
        assert not log._file.closed
    assert log._file.closed


def test_it_rotates_by_size_and_is_read_oldest_first(path: Path) -> None:
    with AuditLog(path, max_bytes=3000, keep=3) as log:
        for number in range(40):
            log.write(decision(number))
    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2", "audit.jsonl.3"]
    assert all(file.stat().st_size <= 3000 for file in path.parent.iterdir())
    kept = numbers(path)
    assert kept == list(range(40 - len(kept), 40))
    assert len(kept) > 10


def test_a_line_larger_than_a_file_is_kept_whole(path: Path) -> None:
    with AuditLog(path, max_bytes=10, keep=9) as log:
        for number in range(3):
            log.write(decision(number))
    assert numbers(path) == [0, 1, 2]


def test_where_renaming_is_refused_and_a_handler_of_the_log_raises_each_line_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ValueError("no such window")

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "it is open in another program")

    logger, broken = logging.getLogger("procmon"), Broken()
    monkeypatch.setattr(os, "replace", refuse)
    logger.addHandler(broken)
    try:
        with AuditLog(path, max_bytes=10) as log:
            for number in range(3):
                log.write(decision(number))
    finally:
        logger.removeHandler(broken)
    assert numbers(path) == [0, 1, 2]


def test_where_renaming_is_refused_the_file_grows_on(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "it is open in another program")

    with AuditLog(path, max_bytes=1000) as log, caplog.at_level(logging.WARNING, "procmon"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse)
            for number in range(10):
                log.write(decision(number))
        assert caplog.text.count("cannot be renamed") == 1
        log.write(decision(10))
    assert numbers(path) == list(range(11))
    assert path.with_name("audit.jsonl.1").exists()


def test_old_files_outlive_any_number_of_refusals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def refuse_the_newest(source: Path, target: Path) -> None:
        if source == path:
            raise PermissionError(errno.EACCES, "it is open in another program")
        replace(source, target)

    with AuditLog(path, max_bytes=1500, keep=9) as log:
        for number in range(8):
            log.write(decision(number))
        before = len(list(path.parent.iterdir()))
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse_the_newest)
            for number in range(8, 30):
                log.write(decision(number))
            assert numbers(path) == list(range(30))  # read over the gap that the refusal has left
        for number in range(30, 34):
            log.write(decision(number))
    assert numbers(path) == list(range(34))
    assert before >= 3


def test_a_file_that_cannot_be_opened_again_is_opened_by_the_next_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise AuditError("it is open in another program")

    with AuditLog(path, max_bytes=10) as log:
        log.write(decision(0))
        with monkeypatch.context() as patch:
            patch.setattr(log._file, "_open", refuse)
            for number in (1, 2):
                with pytest.raises(AuditError, match="another program"):
                    log.write(decision(number))
        log.write(decision(3))
    assert numbers(path) == [0, 3]


@pytest.mark.parametrize("after", range(5))
def test_a_log_that_rotates_while_it_is_read_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    real_open, opened = Path.open, 0

    def open_and_rotate(file: Path, mode: str) -> object:
        nonlocal opened
        if opened == after:
            log.write(decision(5))
        opened += 1
        return real_open(file, mode)

    with AuditLog(path, max_bytes=10, keep=9) as log:
        for number in range(5):
            log.write(decision(number))
        reader = audit.read(path)
        monkeypatch.setattr(Path, "open", open_and_rotate)
        found = [int(each.who) for each in reader]
    assert found[:5] == [0, 1, 2, 3, 4]  # a line written meanwhile may be among them


def test_a_full_disk_leaves_no_half_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk(FileIO):
        full = False

        def write(self, data: bytes) -> int:  # type: ignore[override]  # of all buffers, bytes are what comes
            if FullDisk.full and len(data) < 100:
                raise OSError(errno.ENOSPC, "no space left on device")
            return super().write(data[: len(data) - 50] if FullDisk.full else data)

    monkeypatch.setattr(line_file, "FileIO", FullDisk)
    with AuditLog(path) as log:
        log.write(decision(1))
        FullDisk.full = True
        with pytest.raises(OSError, match="no space left"):
            log.write(decision(2))
        FullDisk.full = False
        log.write(decision(3))
    reader = audit.read(path)
    assert ([each.who for each in reader], reader.damaged) == (["1", "3"], [])


def test_a_log_with_half_a_line_on_a_full_disk_cannot_be_opened_and_the_error_names_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    class FullDisk(FileIO):
        def __init__(self, path: Path, mode: str) -> None:
            super().__init__(path, mode)
            opened.append(self)

        def write(self, data: object) -> int:
            raise OSError(errno.ENOSPC, "no space left on device")

    path.write_bytes(b'{"process": {"pid": 8,')
    monkeypatch.setattr(line_file, "FileIO", FullDisk)
    with pytest.raises(AuditError, match="it cannot be written: no space left on device") as caught:
        AuditLog(path)
    assert str(path) in str(caught.value)
    assert [file.closed for file in opened] == [True]


def test_a_log_that_was_removed_is_begun_anew(tmp_path: Path) -> None:
    """Rotate like another program; Windows lets no program remove or rename a file that is open here."""
    path = tmp_path / "audit.jsonl"
    with audit.AuditLog(path) as log:
        log.write(decision(1))
        if sys.platform == "win32":
            with pytest.raises(PermissionError):
                path.unlink()
            return
        path.unlink()
        log.write(decision(2))
        path.rename(tmp_path / "elsewhere")
        log.write(decision(3))
    assert [one.who for one in audit.read(path)] == ["3"]
    assert [one.who for one in audit.read(tmp_path / "elsewhere")] == ["2"]


@pytest.mark.promise("A log that rotates is read completely and in order", gate="AuditLog")
def test_a_log_that_rotates_while_it_is_opened_is_read_in_order_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log rotates twice at each step of the opening."""
    log = audit.AuditLog(tmp_path / "audit.jsonl", max_bytes=1, keep=100)
    for number in range(1, 6):
        log.write(decision(number))
    written, opens = list(range(1, 6)), 0
    whole = Path.open

    def open_and_rotate(path: Path, *args: Any, **options: Any) -> Any:
        nonlocal opens
        file = whole(path, *args, **options)
        opens += 1
        if opens <= 8 and sys.platform != "win32":  # Windows renames no open file
            for _ in range(2):
                written.append(written[-1] + 1)
                log.write(decision(written[-1]))
        return file

    monkeypatch.setattr(Path, "open", open_and_rotate)
    numbers = [int(one.who) for one in audit.read(log.path)]
    assert numbers == written[: len(numbers)], "oldest first, and none is missing"
    assert len(numbers) >= 5
    log.close()


def test_several_lines_are_written_at_once_as_many_as_fit(path: Path) -> None:
    line = len(json.dumps(decision(1).as_dict(), separators=(",", ":"))) + 1
    with AuditLog(path, max_bytes=3 * line + 10, keep=9) as log:
        left, calls = [decision(number) for number in range(1, 8)], []
        while left:
            calls.append(log.write_some(left))
            left = left[calls[-1] :]
    assert calls == [3, 3, 1]
    assert [one.who for one in audit.read(path)] == [str(number) for number in range(1, 8)]
    assert all(file.stat().st_size <= 3 * line + 10 for file in path.parent.iterdir())


def test_a_copy_with_a_date_in_its_name_costs_no_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number up to the highest was tried: minutes for audit.jsonl.20260131."""
    with AuditLog(path) as log:
        log.write(decision(2))
    copy = path.with_name("audit.jsonl.20260131")
    copy.write_text(json.dumps(decision(1).as_dict()) + "\n", encoding="utf-8")
    tried = []
    numbered = line_file._numbered

    def counted(path: Path, number: int) -> Path:
        tried.append(number)
        return numbered(path, number)

    monkeypatch.setattr(line_file, "_numbered", counted)
    assert numbers(path) == [1, 2]
    assert len(tried) < 50


def test_a_file_of_the_log_that_cannot_be_read_is_named(path: Path) -> None:
    with AuditLog(path) as log:
        log.write(decision(2))
    path.with_name("audit.jsonl.1").mkdir()
    with pytest.raises(AuditError, match=r"audit\.jsonl\.1: it cannot be read"):
        list(audit.read(path))


def test_half_a_line_that_a_full_disk_keeps_costs_no_other_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FileIO.write

    class Full(FileIO):
        full = False

        def write(self, data: Any) -> int:
            if not Full.full:
                return real(self, data)
            Full.full = len(data) < 40
            if Full.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            Full.full = True
            return real(self, data[: len(data) - 20])

        def truncate(self, size: int | None = None) -> int:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(line_file, "FileIO", Full)
    with AuditLog(path) as log:
        log.write(decision(1))
        Full.full = True
        with pytest.raises(OSError, match="Input/output error"):
            log.write(decision(2))
        Full.full = False
        log.write(decision(3))
    assert numbers(path) == [1, 3]
