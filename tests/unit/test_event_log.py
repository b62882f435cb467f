"""EventLogSink: the event of each decision, and that no name can forge a line."""

import sys
from dataclasses import dataclass, field

import pytest

import procmon
from procmon import ALLOW, BLOCK, DEFER, DecidedBy, Decision, EventLogSink, ProcessHelper, Verdict, VerdictResult
from procmon.win32 import event_log
from procmon.win32.event_log import MAX_CHARACTERS

ERROR, WARNING, INFORMATION = 1, 2, 4


@dataclass
class Source:
    """Stands for an open source of Windows."""

    name: str = ""
    events: list[tuple[int, int, str]] = field(default_factory=list)
    closed: int = 0

    def report(self, kind: int, event: int, text: str) -> None:
        self.events.append((kind, event, text))

    def close(self) -> None:
        self.closed += 1


def decision(
    verdict: Verdict = ALLOW,
    by: DecidedBy = DecidedBy.RULE,
    result: VerdictResult | None = VerdictResult.DONE,
    *,
    image: str = "c:\\tools\\a.exe",
    audited: bool = False,
) -> Decision:
    process = ProcessHelper(pid=8, parent_pid=4, image_name=image, start_key=1)
    return Decision(process=process, verdict=verdict, by=by, who="no tools", result=result, audited=audited)


def events(*decisions: Decision, allows: bool = False) -> list[tuple[int, int, str]]:
    source = Source()
    with EventLogSink(allows=allows, open_source=lambda _: source) as sink:
        for each in decisions:
            sink.write(each)
    return source.events


@pytest.mark.parametrize(
    ("each", "kind", "event"),
    [
        (decision(BLOCK), WARNING, 2),
        (decision(BLOCK, audited=True), WARNING, 3),
        (decision(DEFER, audited=True), WARNING, 3),
        (decision(BLOCK, DecidedBy.ERROR), ERROR, 4),
        (decision(ALLOW, DecidedBy.DEADLINE), ERROR, 4),
        (decision(ALLOW, DecidedBy.GATE_TIMEOUT), ERROR, 4),
        (decision(ALLOW, DecidedBy.DISCONNECT), ERROR, 4),
        (decision(ALLOW, DecidedBy.LIMIT), ERROR, 4),
        (decision(BLOCK, result=VerdictResult.STALE), ERROR, 4),
        (decision(BLOCK, result=None), WARNING, 2),
    ],
)
def test_each_kind_of_decision_has_its_type_and_id(each: Decision, kind: int, event: int) -> None:
    assert [(got, number) for got, number, _ in events(each)] == [(kind, event)]


def test_allowed_starts_are_left_out_unless_they_are_wanted() -> None:
    assert events(decision(ALLOW)) == []
    assert [(kind, number) for kind, number, _ in events(decision(ALLOW), allows=True)] == [(INFORMATION, 1)]


def test_an_event_says_what_happened_and_then_each_field() -> None:
    ((_, _, text),) = events(decision(BLOCK))
    lines = text.split("\r\n")
    assert lines[0] == "c:\\tools\\a.exe (pid 8) blocked by rule no tools"
    assert lines[1] == ""
    assert {"image: c:\\tools\\a.exe", "verdict: block", "rule or callback: no tools", "result: done"} < {*lines}


def test_an_audited_block_is_said_to_be_none() -> None:
    ((_, _, text),) = events(decision(BLOCK, audited=True))
    assert text.startswith("c:\\tools\\a.exe (pid 8) would be blocked: by rule")


def test_no_name_can_begin_a_line() -> None:
    ((_, _, text),) = events(decision(BLOCK, image="c:\\a\r\nverdict: allow\x00.exe"))
    assert text.count("\r\n") == text.count("\n") and "\x00" not in text
    assert [line for line in text.split("\r\n") if line.startswith("verdict")] == ["verdict: block"]


def test_a_monitor_writes_its_blocks() -> None:
    source = Source()
    gate = procmon.SimulatedGate()
    with procmon.Monitor(gate, default=BLOCK, audit=EventLogSink(open_source=lambda _: source)):
        gate.verdict_of(gate.start("c:/tools/a.exe"))
    assert [number for _, number, _ in source.events] == [2]


def reported_for(monkeypatch: pytest.MonkeyPatch, text: str) -> list[str]:
    """The insertion strings that Windows gets for an event with this text."""
    reported: list[str] = []
    monkeypatch.setattr(event_log, "_RegisterEventSourceW", lambda server, name: 8)
    monkeypatch.setattr(event_log.EventSource, "_close", staticmethod(lambda handle: None))
    monkeypatch.setattr(event_log, "_ReportEventW", lambda *arguments: reported.append(arguments[7][0]))
    with event_log.EventSource("a") as source:
        source.report(WARNING, 2, text)
    return reported


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a.exe %1%1%1", r"a.exe \x251\x251\x251"),
        ("%%245 %%", r"\x25\x25245 \x25%"),
        ("%{S-1-5-18}", r"\x25{S-1-5-18}"),
        ("100 %, %PATH% 5%", "100 %, %PATH% 5%"),
    ],
)
def test_a_reader_finds_nothing_to_replace_in_the_text_of_an_event(
    monkeypatch: pytest.MonkeyPatch, text: str, written: str
) -> None:
    """MS-EVEN 3.2.4.1.5: %n, %%n and %{...} are replaced again and again, also in what replaced them."""
    assert reported_for(monkeypatch, text) == [written]


def test_escapes_count_for_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert reported_for(monkeypatch, "%1" * MAX_CHARACTERS) == [(r"\x251" * MAX_CHARACTERS)[:MAX_CHARACTERS]]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("x" * MAX_CHARACTERS, "x" * MAX_CHARACTERS),
        ("x" * 40_000, "x" * MAX_CHARACTERS),
        ("\U0001f600" * 20_000, "\U0001f600" * (MAX_CHARACTERS // 2)),
        ("x" + "\U0001f600" * 20_000, "x" + "\U0001f600" * (MAX_CHARACTERS // 2)),
        ("a\ud83d", "a\ud83d"),
    ],
    ids=["the limit", "long", "half a character too many", "no half", "half a character"],
)
def test_a_text_is_cut_where_windows_stops_to_count_its_utf_16_units(
    monkeypatch: pytest.MonkeyPatch, text: str, written: str
) -> None:
    reported = reported_for(monkeypatch, text)
    assert reported == [written]
    assert len(written.encode("utf-16-le", "surrogatepass")) <= 2 * MAX_CHARACTERS


def test_close_twice_is_no_error() -> None:
    sink = EventLogSink(open_source=Source)
    sink.close()
    sink.close()


@pytest.mark.parametrize("name", ["", "a\\b"])
def test_a_name_that_windows_would_refuse_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name of a program"):
        EventLogSink(name, open_source=Source)


def test_off_windows_it_says_so() -> None:
    if sys.platform == "win32":  # tests/windows/test_event_log.py covers Windows
        return
    with pytest.raises(procmon.UnsupportedPlatform, match="needs Windows"):
        EventLogSink()
    with pytest.raises(procmon.UnsupportedPlatform, match="need Windows"):
        EventLogSink.install()
