"""Process creations of Sysmon and of the Security log, as the field's tools write them."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

from procmon import Policy, PolicyError
from procmon.policy import recordings
from procmon.policy.recordings import Recording, Recordings
from procmon.policy.rehearsal import rehearse

SYSMON = {
    "RuleName": "-",
    "UtcTime": "2026-01-31 10:22:06.123",
    "ProcessGuid": "{c52ae1f9-0a3e-697d-0102-000000001500}",
    "ProcessId": "4711",
    "Image": r"C:\Windows\System32\certutil.exe",
    "FileVersion": "10.0.26100.1 (WinBuild.160101.0800)",
    "Description": "CertUtil.exe",
    "Product": "Microsoft® Windows® Operating System",
    "Company": "Microsoft Corporation",
    "OriginalFileName": "CertUtil.exe",
    "CommandLine": "certutil -urlcache -f http://example.org/a.exe <a & 'b'>",
    "CurrentDirectory": "C:\\Users\\alice\\",
    "User": r"PC\alice",
    "LogonGuid": "{c52ae1f9-0a3e-697d-0102-000000001501}",
    "LogonId": "0x3144c",
    "TerminalSessionId": "1",
    "IntegrityLevel": "High",
    "Hashes": f"SHA1={'1A' * 20},MD5={'2B' * 16},SHA256={'3C' * 32},IMPHASH={'4D' * 16}",
    "ParentProcessGuid": "{c52ae1f9-0a3e-697d-0102-000000001502}",
    "ParentProcessId": "996",
    "ParentImage": r"C:\Windows\System32\cmd.exe",
    "ParentCommandLine": "cmd.exe",
    "ParentUser": r"PC\alice",
}

SECURITY = {
    "SubjectUserSid": "S-1-5-18",
    "SubjectUserName": "PC$",
    "SubjectDomainName": "WORKGROUP",
    "SubjectLogonId": "0x3e7",
    "NewProcessId": "0x1267",
    "NewProcessName": r"C:\Windows\System32\notepad.exe",
    "TokenElevationType": "%%1936",
    "ProcessId": "0x3e4",
    "CommandLine": "notepad a.txt",
    "TargetUserSid": "S-1-5-21-1-2-3-1001",
    "TargetUserName": "alice",
    "TargetDomainName": "PC",
    "TargetLogonId": "0x3144c",
    "ParentProcessName": r"C:\Windows\explorer.exe",
    "MandatoryLabel": "S-1-16-8192",
}

PROVIDERS = {1: "Microsoft-Windows-Sysmon", 4688: "Microsoft-Windows-Security-Auditing"}


def winlogbeat(data: dict[str, str], number: int = 1) -> dict[str, object]:
    """The event as Winlogbeat 8 writes it without its modules."""
    return {
        "@timestamp": "2026-01-31T10:22:06.123Z",
        "event": {"code": str(number), "provider": PROVIDERS.get(number, "x"), "kind": "event"},
        "host": {"name": "pc"},
        "winlog": {
            "channel": "Microsoft-Windows-Sysmon/Operational",
            "provider_name": PROVIDERS.get(number, "x"),
            "event_id": str(number),
            "computer_name": "pc",
            "event_data": data,
        },
    }


def evtx_dump(data: dict[str, str], number: int = 1) -> dict[str, object]:
    """The event as ``evtx_dump -o jsonl`` writes it; numbers are numbers there."""
    return {
        "Event": {
            "#attributes": {"xmlns": "http://schemas.microsoft.com/win/2004/08/events/event"},
            "System": {
                "Provider": {"#attributes": {"Name": PROVIDERS.get(number, "x"), "Guid": "5770385F"}},
                "EventID": number,
                "TimeCreated": {"#attributes": {"SystemTime": "2026-01-31T10:22:06.123456Z"}},
                "Computer": "pc",
            },
            "EventData": {key: int(value) if value.isdecimal() else value for key, value in data.items()},
        }
    }


def separate_attributes(data: dict[str, str], number: int = 1) -> dict[str, object]:
    """The event as ``evtx_dump -o jsonl --separate-json-attributes`` writes it."""
    system = {"Provider_attributes": {"Name": PROVIDERS[number]}, "Provider": None, "EventID": number, "Computer": "pc"}
    return {"Event": {"System": system, "EventData": data}}


def xml(data: dict[str, str], number: int = 1) -> str:
    """The event as ``Get-WinEvent | ForEach-Object { $_.ToXml() }`` writes it."""
    fields = "".join(f"<Data Name={quoteattr(key)}>{escape(value)}</Data>" for key, value in data.items())
    return (
        "<Event xmlns='http://schemas.microsoft.com/win/2004/08/events/event'><System>"
        f"<Provider Name='{PROVIDERS.get(number, 'x')}' Guid='{{5770385f}}'/><EventID>{number}</EventID>"
        "<TimeCreated SystemTime='2026-01-31T10:22:06.1234567Z'/><Computer>pc</Computer></System>"
        f"<EventData>{fields}</EventData></Event>"
    )


def read(path: Path, text: str, encoding: str = "utf-8") -> tuple[list[Recording], Recordings]:
    """The recordings of a log with this text."""
    path.write_text(text, encoding=encoding)
    reader = recordings.read(path)
    return list(reader), reader


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


LAYOUTS = {
    "winlogbeat lines": lambda data, n: json.dumps(winlogbeat(data, n)) + "\n",
    "elasticsearch export": lambda data, n: json.dumps({"_index": "w", "_source": winlogbeat(data, n)}) + "\n",
    "evtx_dump lines": lambda data, n: json.dumps(evtx_dump(data, n)) + "\n",
    "evtx_dump separate": lambda data, n: json.dumps(separate_attributes(data, n)) + "\n",
    "evtx_dump json": lambda data, n: "Record 1\n" + json.dumps(evtx_dump(data, n), indent=2) + "\n",
    "a list": lambda data, n: json.dumps([winlogbeat(data, n)], indent=1),
    "event xml": lambda data, n: xml(data, n) + "\n",
    "evtx_dump xml": lambda data, n: f'Record 1\n<?xml version="1.0" encoding="utf-8"?>\n{xml(data, n)}\n'.replace(
        "<System>", "\n  <System>\n"
    ),
    "wevtutil with a root": lambda data, n: f"<Events>\n{xml(data, n)}\n</Events>\n",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_event_1_of_sysmon_is_read(layout: str, log: Path) -> None:
    [recording], reader = read(log, LAYOUTS[layout](SYSMON, 1))
    process, details = recording.process, recording.details
    assert (process.pid, process.parent_pid, recording.computer) == (4711, 996, "pc")
    assert process.image_name == r"c:\windows\system32\certutil.exe"
    assert process.command_line == SYSMON["CommandLine"]
    assert process.created == datetime(2026, 1, 31, 10, 22, 6, 123000, tzinfo=UTC)
    assert details.parent == SYSMON["ParentImage"]
    assert details.parent_command_line == "cmd.exe"
    assert (details.user, details.parent_user) == (r"PC\alice", r"PC\alice")
    assert details.current_directory == "C:\\Users\\alice\\"
    assert (details.session, details.logon_id, details.integrity) == (1, "0x3144c", "High")
    assert (details.original_file_name, details.company) == ("CertUtil.exe", "Microsoft Corporation")
    assert (details.description, details.product) == ("CertUtil.exe", "Microsoft® Windows® Operating System")
    assert details.file_version == SYSMON["FileVersion"]
    assert (details.md5, details.sha1, details.sha256) == ("2b" * 16, "1a" * 20, "3c" * 32)
    assert details.imphash == "4d" * 16
    assert (reader.unread, reader.others) == ([], 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_event_4688_of_the_security_log_is_read(layout: str, log: Path) -> None:
    [recording], _ = read(log, LAYOUTS[layout](SECURITY, 4688))
    process, details = recording.process, recording.details
    assert (process.pid, process.parent_pid) == (0x1267, 0x3E4)
    assert (process.image_name, process.command_line) == (r"c:\windows\system32\notepad.exe", "notepad a.txt")
    assert details.parent == r"C:\Windows\explorer.exe"
    assert (details.user, details.user_sid) == (r"PC\alice", "S-1-5-21-1-2-3-1001")
    assert (details.logon_id, details.integrity) == ("0x3144c", 0x2000)
    assert details.sha256 is None


def test_a_4688_without_a_target_or_a_command_line_is_the_subjects(log: Path) -> None:
    none = {"TargetUserSid": "S-1-0-0", "TargetUserName": "-", "TargetDomainName": "-", "CommandLine": ""}
    [recording], _ = read(log, xml(SECURITY | none, 4688))
    assert recording.process.command_line is None
    assert (recording.details.user, recording.details.user_sid) == (r"WORKGROUP\PC$", "S-1-5-18")
    assert recording.details.logon_id == "0x3e7"


def test_a_dash_is_no_value(log: Path) -> None:
    unknown = dict.fromkeys(("ParentImage", "ParentCommandLine", "Description", "OriginalFileName"), "-")
    [recording], _ = read(log, json.dumps(winlogbeat(SYSMON | unknown)))
    details = recording.details
    assert (details.parent, details.parent_command_line) == (None, None)
    assert (details.description, details.original_file_name) == (None, None)


def test_fields_that_winlogbeats_modules_moved_are_found(log: Path) -> None:
    event = winlogbeat({"LogonId": "0x3144c", "IntegrityLevel": "High"})
    event["process"] = {
        "pid": 4711,
        "executable": SYSMON["Image"],
        "command_line": SYSMON["CommandLine"],
        "working_directory": SYSMON["CurrentDirectory"],
        "hash": {"sha256": "3c" * 32},
        "pe": {"original_file_name": "CertUtil.exe", "imphash": "4d" * 16, "architecture": "x64"},
        "parent": {"pid": 996, "executable": SYSMON["ParentImage"], "command_line": "cmd.exe"},
    }
    event["user"] = {"domain": "PC", "name": "alice"}
    [recording], _ = read(log, json.dumps(event))
    assert recording.process.image_name == r"c:\windows\system32\certutil.exe"
    assert recording.process.pid == 4711
    details = recording.details
    assert (details.user, details.integrity, details.parent) == (r"PC\alice", "High", SYSMON["ParentImage"])
    assert (details.sha256, details.imphash, details.original_file_name) == ("3c" * 32, "4d" * 16, "CertUtil.exe")


@pytest.mark.parametrize("kept", [{"ProcessId": "0x3e4"}, {}], ids=["with the creator", "without"])
def test_fields_of_4688_that_winlogbeats_modules_moved_are_found(kept: dict[str, str], log: Path) -> None:
    moved = ("NewProcessId", "NewProcessName", "ProcessId", "ParentProcessName", "CommandLine")
    event = winlogbeat({key: value for key, value in SECURITY.items() if key not in moved} | kept, 4688)
    event["process"] = {
        "pid": 0x1267,
        "executable": SECURITY["NewProcessName"],
        "name": "notepad.exe",
        "command_line": SECURITY["CommandLine"],
        "parent": {"pid": 0x3E4, "executable": SECURITY["ParentProcessName"], "name": "explorer.exe"},
    }
    event["user"] = {"domain": "WORKGROUP", "name": "PC$", "id": "S-1-5-18"}
    found, reader = read(log, json.dumps(event) + "\n" + json.dumps(winlogbeat(SECURITY, 4688)))
    assert [replace(each.process, start_key=1) for each in found] == [found[0].process] * 2
    assert [(each.process.parent_pid, each.process.image_name, each.details) for each in found] == [
        (0x3E4, r"c:\windows\system32\notepad.exe", found[1].details)
    ] * 2
    assert reader.unread == []


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_logs_of_powershell_are_read_in_their_encoding(encoding: str, log: Path) -> None:
    [recording], _ = read(log, xml(SYSMON) + "\n", encoding)
    assert recording.details.product == "Microsoft® Windows® Operating System"


def test_other_events_are_counted_and_left_out(log: Path) -> None:
    lines = [json.dumps(winlogbeat(SYSMON, number)) for number in (3, 1, 5)] + [xml({"a": "b"}, 4624)]
    found, reader = read(log, "\n".join(lines))
    assert (len(found), reader.others, reader.unread) == (1, 3, [])


def test_what_is_no_event_is_reported_with_its_line_and_the_rest_is_read(log: Path) -> None:
    whole = json.dumps(winlogbeat(SYSMON))
    cut = whole[: len(whole) // 2]
    without_a_pid = json.dumps(winlogbeat({"Image": "a"}))
    text = "\n".join(["hello", whole, cut, whole, xml(SYSMON)[:-3] + "x></Event>", without_a_pid, '{"a": 1}', whole])
    found, reader = read(log, text)
    assert len(found) == 3
    reported = {each.line: each.reason for each in reader.unread}
    assert reported.keys() == {1, 3, 5, 6, 7}
    assert reported[3] == "it ends in the middle"
    assert reported[1] == "it is neither JSON nor event XML"
    assert "no number" in reported[7]
    assert str(reader.unread[1]) == f"{log}, line 3: not an event (it ends in the middle), so it is left out"


def test_an_event_without_an_end_does_not_fill_the_memory(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "LARGEST", 1000)
    found, reader = read(log, "<Event>\n" + "x" * 50 + "\n" * 10 + "<a>\n" * 400 + xml(SYSMON))
    assert found and reader.unread[0].reason == "it is longer than 1,000 characters"


def test_entities_of_xml_are_not_expanded(log: Path) -> None:
    bomb = '<!DOCTYPE e [<!ENTITY a "aaaa">]>' + xml(SYSMON).replace("cmd.exe", "&a;&a;")
    found, reader = read(log, bomb)
    assert (found, len(reader.unread)) == ([], 1)
    assert "entity" in reader.unread[0].reason


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="there is no such file; give a log of Sysmon"):
        recordings.read(tmp_path / "none")


# ------------------------------------------------------------------------------------------------------- rehearsals


RULES = """
[[rule]]
name = "renamed certutil"
original_file_name = "certutil.exe"
parent = "**/cmd.exe"
verdict = "block"

[[rule]]
name = "notepad"
image = "notepad.exe"
user = "alice"
verdict = "ask"

[[rule]]
name = "by signer"
signer = "Example Ltd"
verdict = "block"
"""


def test_a_rehearsal_says_what_a_policy_would_have_done(log: Path) -> None:
    other = SYSMON | {"Image": r"C:\a.exe", "OriginalFileName": "-", "ProcessId": "4712"}
    lines = [winlogbeat(SYSMON), winlogbeat(SYSMON), winlogbeat(SECURITY, 4688), winlogbeat(other)]
    found, _ = read(log, "\n".join(map(json.dumps, lines)))
    result = rehearse(found, Policy.parse(RULES))
    assert str(result).splitlines() == [
        "4 process creations: 2 would be blocked, 1 asked about, 0 only logged, 1 allowed",
        r"      2 x  block  c:\windows\system32\certutil.exe by rule renamed certutil",
        r"      1 x  ask  c:\windows\system32\notepad.exe by rule notepad",
        "  not recorded: original file name, which rules ask of 1 processes",
        "  not recorded: signer, which rules ask of 1 processes",
    ]
    assert [each.process.pid for each in result.decisions] == [4711, 4711, 0x1267]


def test_what_rules_only_log_is_counted_apart(log: Path) -> None:
    found, _ = read(log, json.dumps(winlogbeat(SYSMON)))
    result = rehearse(found, Policy.parse(f'mode = "audit"\n{RULES}'))
    assert (result.blocked, result.audited) == (0, 1)
    assert "block (audit)  c:" in str(result)


PARENT = '[[rule]]\nname = "child"\nancestor = "**/word.exe"\nverdict = "block"\n'


def creation(pid: int, parent: int, image: str, parent_image: str, computer: str = "pc") -> str:
    changed = {"ProcessId": str(pid), "ParentProcessId": str(parent), "Image": image, "ParentImage": parent_image}
    event = winlogbeat(SYSMON | changed)
    winlog = event["winlog"]
    assert isinstance(winlog, dict)
    winlog["computer_name"] = computer
    return json.dumps(event)


WORD, CMD, TOOL = r"C:\word.exe", r"C:\cmd.exe", r"C:\tool.exe"


@pytest.mark.parametrize(
    ("events", "blocked"),
    [
        ([(8, 4, WORD, "-"), (12, 8, CMD, WORD), (16, 12, TOOL, CMD)], 2),  # through recorded processes
        ([(12, 8, CMD, WORD)], 1),  # from the recording itself
        ([(8, 4, WORD, "-"), (12, 8, CMD, TOOL)], 0),  # the pid was reused by a process that is not recorded
        ([(8, 4, WORD, "-"), (8, 4, TOOL, "-"), (12, 8, CMD, TOOL)], 0),  # and by a recorded one
        ([(8, 4, WORD, "-", "other"), (12, 8, CMD, "-", "pc")], 0),  # the pid of another machine
    ],
)
def test_parents_are_found_by_machine_pid_and_image(
    events: list[tuple[int, int, str, str]], blocked: int, log: Path
) -> None:
    found, _ = read(log, "\n".join(creation(*event) for event in events))
    assert rehearse(found, Policy.parse(PARENT)).blocked == blocked


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("ProcessId", "", "ProcessId is no number of 32 bits"),
        ("ProcessId", ["8"], "ProcessId is missing"),
        ("ProcessId", "0x" + "f" * 9000, "ProcessId is no number of 32 bits"),
        ("ProcessId", "-8", "ProcessId is no number of 32 bits"),
        ("ParentProcessId", str(1 << 32), "ParentProcessId is no number of 32 bits"),
        ("TerminalSessionId", "0x" + "f" * 9000, "TerminalSessionId is no number of 32 bits"),
    ],
)
def test_a_wrong_number_costs_its_event_and_not_the_replay(field: str, value: object, reason: str, log: Path) -> None:
    events = [evtx_dump(SYSMON), evtx_dump(SYSMON)]
    events[0]["Event"]["EventData"][field] = value  # type: ignore[index]
    log.write_text("\n".join(map(json.dumps, events)), encoding="utf-8")
    reader = recordings.read(log)
    result = rehearse(reader, Policy.parse("default = 'block'\n[[rule]]\nsession = 3\nverdict = 'allow'"))
    assert result.processes == 1
    assert [each.reason[: len(reason)] for each in reader.unread] == [reason]


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1600-01-01", "soon", ""])
def test_a_time_that_utc_does_not_have_is_not_known(time: str, log: Path) -> None:
    event = evtx_dump({key: value for key, value in SYSMON.items() if key != "UtcTime"})
    event["Event"]["System"]["TimeCreated"]["#attributes"]["SystemTime"] = time  # type: ignore[index]
    log.write_text(json.dumps(event), encoding="utf-8")
    [found] = recordings.read(log)
    assert found.process.created is None or found.process.created.year == 1600


def test_an_image_that_is_no_text_is_not_known(log: Path) -> None:
    event = evtx_dump(SYSMON)
    event["Event"]["EventData"]["Image"] = [r"C:\a.exe"]  # type: ignore[index]
    log.write_text(json.dumps(event), encoding="utf-8")
    policy = Policy.parse("[[rule]]\nimage = 'a.exe'\nverdict = 'block'")
    assert rehearse(recordings.read(log), policy).missing == {"image": 1}


def test_events_that_begin_and_never_end_take_no_time(log: Path) -> None:
    """The time was quadratic: 47 seconds for 20,000 of them."""
    log.write_text("<x></Event>" + "<Event " * 200_000, encoding="utf-8")
    reader = recordings.read(log)
    assert list(reader) == []
    assert [each.reason for each in reader.unread] == ["it is XML without an event"]


@pytest.mark.parametrize(
    ("condition", "missing"),
    [
        ("user = 'S-1-5-18'", {"user_sid": 1}),
        ("user.not.glob = 'S-1-5-18'", {"user_sid": 1}),
        ("unless = [{user = 'S-1-5-18'}]", {"user_sid": 1}),
        (r"user = 'PC\bob'", {}),
    ],
)
def test_a_log_of_names_does_not_answer_rules_of_sids_and_says_so(
    condition: str, missing: dict[str, int], log: Path
) -> None:
    """Sysmon records the name of the account, and no SID."""
    log.write_text(json.dumps(evtx_dump(SYSMON)), encoding="utf-8")
    policy = Policy.parse(f"[[rule]]\nimage = 'certutil.exe'\n{condition}\nverdict = 'block'")
    assert rehearse(recordings.read(log), policy).missing == missing


def test_a_log_that_begins_with_the_newest_event_loses_ancestors_and_says_so(log: Path) -> None:
    """As Get-WinEvent writes it without -Oldest."""
    events = []
    for number, (image, parent) in enumerate([("word", "explorer"), ("cmd", "word"), ("ping", "cmd")]):
        family = {"Image": f"C:\\{image}.exe", "ParentImage": f"C:\\{parent}.exe", "ProcessId": str(8 + 4 * number)}
        time = {"UtcTime": f"2026-01-31 10:22:{2 * number:02}.000", "ParentProcessId": str(4 + 4 * number)}
        events.append(json.dumps(evtx_dump(SYSMON | family | time)))
    policy = Policy.parse("[[rule]]\nancestor = 'word.exe'\nverdict = 'block'")
    log.write_text("\n".join(events), encoding="utf-8")
    in_order = rehearse(recordings.read(log), policy)
    assert (in_order.blocked, in_order.backwards) == (2, 0)
    log.write_text("\n".join(reversed(events)), encoding="utf-8")
    newest_first = rehearse(recordings.read(log), policy)
    assert (newest_first.blocked, newest_first.backwards) == (1, 2)
    assert "2 processes are older than the one before, so ancestors can be unknown" in str(newest_first)
