"""The event log of Windows. Wine accepts the calls and keeps no events, so the tests check the arguments."""

import winreg

import pytest

from procmon import ALLOW, DecidedBy, Decision, EventLogSink, ProcessHelper
from procmon.win32 import event_log

SOURCE = "procmon-gate test"
KEY = rf"SYSTEM\CurrentControlSet\Services\EventLog\Application\{SOURCE}"


def test_an_event_is_reported() -> None:
    process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\späß\\a.exe")
    with EventLogSink(SOURCE, allows=True) as sink:
        sink.write(Decision(process=process, verdict=ALLOW, by=DecidedBy.DEFAULT))


def test_a_long_text_is_cut_where_windows_would_refuse_it() -> None:
    with event_log.EventSource(SOURCE) as source:
        for character in ("x", "\U0001f600"):
            source.report(event_log.WARNING, 2, character * 40_000)


def test_a_closed_source_reports_nothing() -> None:
    sink = EventLogSink(SOURCE, allows=True)
    sink.close()
    process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe")
    with pytest.raises(ValueError, match="closed"):
        sink.write(Decision(process=process, verdict=ALLOW, by=DecidedBy.DEFAULT))


def test_install_registers_a_message_file_that_every_windows_has_and_uninstall_removes_it() -> None:
    EventLogSink.install(SOURCE)
    EventLogSink.install(SOURCE)
    with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, KEY) as key:
        path, kind = winreg.QueryValueEx(key, "EventMessageFile")
        assert (path, kind) == (r"%SystemRoot%\System32\EventCreate.exe", winreg.REG_EXPAND_SZ)
        assert winreg.QueryValueEx(key, "TypesSupported") == (7, winreg.REG_DWORD)
    EventLogSink.uninstall(SOURCE)
    EventLogSink.uninstall(SOURCE)
    with pytest.raises(FileNotFoundError):
        winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, KEY)
