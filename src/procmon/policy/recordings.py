"""Process creations that other tools recorded. `rehearsal` asks a policy about them.

It reads event 1 of Sysmon and event 4688 of the Security log, as

- JSON or JSON lines of Winlogbeat (``winlog.event_data``, or ECS fields if its modules have moved them) and of
  evtx_dump (``Event.EventData``), also one document over several lines, or all in one list;
- event XML: of ``Get-WinEvent -Oldest ... | ForEach-Object { $_.ToXml() }``, ``wevtutil qe /f:xml`` or evtx_dump.

Sources: https://learn.microsoft.com/en-us/sysinternals/downloads/sysmon#event-id-1-process-creation,
https://learn.microsoft.com/en-us/previous-versions/windows/it-pro/windows-10/security/threat-protection/auditing/event-4688
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree

from ..errors import PolicyError
from ..records import ProcessHelper
from ..util.paths import lowercase
from ..util.printable import printable

__all__ = ["RecordedDetails", "Recording", "Recordings", "Unread", "read"]

SYSMON, SECURITY = "Microsoft-Windows-Sysmon", "Microsoft-Windows-Security-Auditing"

LARGEST = 4 * 2**20
"""Characters of the longest event that is read."""

_HEADING = re.compile(r"Record \d+|<\?xml[^>]*\?>|</?Events[^>]*>")
_EVENT, _END = re.compile(r"<Event[\s>]"), "</Event>"
_NAMESPACE = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedDetails:
    """The facts of a recording beyond image, command line and pids, with the names of a policy's keys."""

    parent: str | None = None
    parent_command_line: str | None = None
    user: str | None = None
    user_sid: str | None = None
    parent_user: str | None = None
    current_directory: str | None = None
    session: int | None = None
    logon_id: str | None = None
    integrity: str | int | None = None
    original_file_name: str | None = None
    product: str | None = None
    company: str | None = None
    description: str | None = None
    file_version: str | None = None
    md5: str | None = None
    sha1: str | None = None
    sha256: str | None = None
    imphash: str | None = None


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded process creation."""

    process: ProcessHelper
    """Its image is in the driver's spelling; start keys ascend in the order of the log."""
    details: RecordedDetails
    computer: str
    """The machine's name in the log; the pids are this machine's."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A part of a log that is no event.

    >>> print(Unread(Path("sysmon.jsonl"), 7, "it ends in the middle"))
    sysmon.jsonl, line 7: not an event (it ends in the middle), so it is left out
    """

    path: Path
    line: int
    """Where it begins, from 1."""
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.path}, line {self.line}: not an event ({self.reason}), so it is left out")


class Recordings(Iterator[Recording]):
    """The process creations of a log, in its order; made by `read`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unread: list[Unread] = []
        """The parts that could not be read so far."""
        self.others = 0
        """Events of other kinds so far."""
        self._recordings = self._read()

    def __iter__(self) -> "Recordings":
        return self

    def __next__(self) -> Recording:
        return next(self._recordings)

    def _read(self) -> Iterator[Recording]:
        count = 0
        with _open(self.path) as file:
            for line, event in _events(file, self._note):
                try:
                    made = _recording(event, count + 1)
                except (ValueError, TypeError, AttributeError, KeyError) as error:
                    self._note(line, str(error))
                    continue
                if made is None:
                    self.others += 1
                else:
                    count += 1
                    yield made

    def _note(self, line: int, reason: str) -> None:
        self.unread.append(Unread(self.path, line, reason))


def read(path: str | os.PathLike[str]) -> Recordings:
    """Read the process creations in a log of Sysmon, or in the Security log.

    Raises: PolicyError when there is no such file, or it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise PolicyError(f"{path}: there is no such file; give a log of Sysmon or of the Security log")
    return Recordings(path)


# ------------------------------------------------------------------------------------------------ from text to events


@dataclass(frozen=True, slots=True)
class _Event:
    provider: str
    number: int
    time: str
    computer: str
    data: Mapping[str, object]


def _open(path: Path) -> TextIO:
    """The text of a log: UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it."""
    try:
        with path.open("rb") as file:
            begin = file.read(2)
        encoding = "utf-16" if begin in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        return path.open(encoding=encoding, errors="backslashreplace")
    except OSError as error:
        raise PolicyError(f"{path}: it cannot be read: {error.strerror or error}; give the path of a log") from error


def _events(file: TextIO, unread: Callable[[int, str], None]) -> Iterator[tuple[int, _Event]]:
    """Each event with the line where it begins."""
    for line, text in _texts(file, unread):
        try:
            found = _from_xml(text) if text.startswith("<") else _from_json(json.loads(text))
            yield from ((line, event) for event in found)
        except (ValueError, TypeError, AttributeError, KeyError, ElementTree.ParseError, RecursionError) as error:
            unread(line, str(error))


def _texts(file: TextIO, unread: Callable[[int, str], None]) -> Iterator[tuple[int, str]]:
    """The texts of single events; the lines of an event that spans several are joined."""
    parts: list[str] = []
    began = length = 0
    for number, line in enumerate(file, 1):
        stripped = line.strip()
        if parts and parts[0][0] == "{" and line[0] == "{":
            unread(began, "it ends in the middle")
            parts = []
        if not parts:
            if not stripped or _HEADING.fullmatch(stripped):
                continue
            if stripped[0] == "[":
                yield number, stripped + file.read()
                return
            if stripped[0] not in "{<":
                unread(number, "it is neither JSON nor event XML")
                continue
            began, length = number, 0
        parts.append(stripped if not parts else line)
        length += len(line)
        if _is_whole(parts[0], line, stripped):
            yield began, "".join(parts)
            parts = []
        elif length > LARGEST:
            unread(began, f"it is longer than {LARGEST:,} characters")
            parts = []
    if parts:
        unread(began, "it ends in the middle")


def _is_whole(first: str, line: str, stripped: str) -> bool:
    """The event that begins with the line `first` ends with this line."""
    if first[0] == "<":
        return "</Event>" in line
    if first is stripped:  # a document in one line, or the first line of several
        return stripped[-1] == "}" and stripped != "{"
    return line.rstrip() == "}"


def _from_json(document: object) -> Iterator[_Event]:
    if isinstance(document, list):
        for each in document:
            yield from _from_json(each)
        return
    if not isinstance(document, dict):
        raise ValueError("it is no JSON object")
    document = _table(document, "_source") or document  # as Elasticsearch exports it
    event = _table(document, "Event")
    yield _from_evtx_dump(event) if event else _from_winlogbeat(document)


def _from_evtx_dump(event: Mapping[str, object]) -> _Event:
    system = _table(event, "System")
    number = system["EventID"]
    return _Event(
        provider=str(_attributes(system, "Provider").get("Name", "")),
        number=int(str(number["#text"] if isinstance(number, Mapping) else number)),
        time=str(_attributes(system, "TimeCreated").get("SystemTime", "")),
        computer=str(system.get("Computer", "")),
        data=_table(event, "EventData"),
    )


def _attributes(system: Mapping[str, object], name: str) -> Mapping[str, object]:
    """The XML attributes of an element, which evtx_dump writes in one of two ways."""
    beside = system.get(f"{name}_attributes")  # evtx_dump --separate-json-attributes
    return beside if isinstance(beside, Mapping) else _table(_table(system, name), "#attributes")


def _from_winlogbeat(document: Mapping[str, object]) -> _Event:
    log = _table(document, "winlog") or document  # before version 7 there was no winlog
    number = log.get("event_id", _table(document, "event").get("code"))
    if number is None:
        raise ValueError("it has no number of an event")
    number, data = int(str(number)), _table(log, "event_data")
    return _Event(
        provider=str(log.get("provider_name", log.get("source_name", ""))),
        number=number,
        time=str(document.get("@timestamp", "")),
        computer=str(log.get("computer_name", "")),
        data={**(_security_from_ecs if number == 4688 else _sysmon_from_ecs)(document), **data},
    )


def _sysmon_from_ecs(document: Mapping[str, object]) -> dict[str, object]:
    """The fields of Sysmon's event 1 that Winlogbeat's modules have moved to fields of the Elastic Common Schema."""
    process = _table(document, "process")
    parent, version = _table(process, "parent"), _table(process, "pe")
    user, hashes = _table(document, "user"), {**_table(process, "hash"), "imphash": version.get("imphash")}
    name = "\\".join(str(user[part]) for part in ("domain", "name") if user.get(part))
    found = {
        "Image": process.get("executable"),
        "CommandLine": process.get("command_line"),
        "ProcessId": process.get("pid"),
        "CurrentDirectory": process.get("working_directory"),
        "ParentImage": parent.get("executable"),
        "ParentCommandLine": parent.get("command_line"),
        "ParentProcessId": parent.get("pid"),
        "ProcessGuid": process.get("entity_id"),
        "ParentProcessGuid": parent.get("entity_id"),
        "User": name or None,
        "OriginalFileName": version.get("original_file_name"),
        "Product": version.get("product"),
        "Company": version.get("company"),
        "Description": version.get("description"),
        "FileVersion": version.get("file_version"),
        "Hashes": ",".join(f"{kind}={digits}" for kind, digits in hashes.items() if digits) or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _security_from_ecs(document: Mapping[str, object]) -> dict[str, object]:
    """The same of event 4688, whose ``ProcessId`` is the creator's."""
    process = _table(document, "process")
    parent = _table(process, "parent")
    found = {
        "NewProcessName": process.get("executable"),
        "CommandLine": process.get("command_line"),
        "NewProcessId": process.get("pid"),
        "ParentProcessName": parent.get("executable"),
        "ProcessId": parent.get("pid"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _table(of: Mapping[str, object], name: str) -> Mapping[str, object]:
    """An inner object; an empty one if there is none."""
    inner = of.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _from_xml(text: str) -> Iterator[_Event]:
    """The events of a text; the text around them, such as a document type, is not read."""
    end = 0
    while (begin := _EVENT.search(text, end)) and (last := text.find(_END, begin.start())) >= 0:
        end = last + len(_END)
        event = ElementTree.fromstring(text[begin.start() : end])
        elements = {_NAMESPACE.sub("", element.tag): element for element in event.iter()}
        data = {
            element.get("Name", ""): element.text or ""
            for element in event.iter()
            if _NAMESPACE.sub("", element.tag) == "Data"
        }
        yield _Event(
            provider=elements["Provider"].get("Name", ""),
            number=int(elements["EventID"].text or ""),
            time=elements["TimeCreated"].get("SystemTime", "") if "TimeCreated" in elements else "",
            computer=elements["Computer"].text or "" if "Computer" in elements else "",
            data=data,
        )
    if not end:
        raise ValueError("it is XML without an event")


# ------------------------------------------------------------------------------------------- from events to processes


def _recording(event: _Event, number: int) -> Recording | None:
    """The process creation that an event records; None for any other event."""
    if (event.provider, event.number) == (SYSMON, 1):
        return _sysmon(event, number)
    if (event.provider, event.number) == (SECURITY, 4688):
        return _security(event, number)
    return None


def _sysmon(event: _Event, number: int) -> Recording:
    known = _known(event.data)
    hashes = {
        kind.lower(): digits.lower()
        for kind, equals, digits in (each.partition("=") for each in known.get("Hashes", "").split(","))
        if equals and kind.lower() in ("md5", "sha1", "sha256", "imphash")
    }
    details = RecordedDetails(
        parent=known.get("ParentImage"),
        parent_command_line=known.get("ParentCommandLine"),
        user=known.get("User"),
        parent_user=known.get("ParentUser"),
        current_directory=known.get("CurrentDirectory"),
        session=_number(known, "TerminalSessionId"),
        logon_id=known.get("LogonId"),
        integrity=known.get("IntegrityLevel"),
        original_file_name=known.get("OriginalFileName"),
        product=known.get("Product"),
        company=known.get("Company"),
        description=known.get("Description"),
        file_version=known.get("FileVersion"),
        **hashes,
    )
    time = known.get("UtcTime")
    process = ProcessHelper(
        pid=_pid(known, "ProcessId"),
        parent_pid=_number(known, "ParentProcessId") or 0,
        image_name=lowercase(known.get("Image", "")),
        command_line=known.get("CommandLine"),
        created=_time(f"{time}Z" if time else event.time),
        start_key=number,
    )
    return Recording(process, details, event.computer)


def _security(event: _Event, number: int) -> Recording:
    """``ProcessId`` is the creator's pid. The new process has the target's account, if there is a target."""
    known = _known(event.data)
    account = "Target" if known.get("TargetUserSid", "S-1-0-0") != "S-1-0-0" else "Subject"
    name = "\\".join(filter(None, (known.get(f"{account}DomainName"), known.get(f"{account}UserName"))))
    label = re.fullmatch(r"S-1-16-([0-9]{1,10})", known.get("MandatoryLabel", ""))
    details = RecordedDetails(
        parent=known.get("ParentProcessName") or None,
        user=name or None,
        user_sid=known.get(f"{account}UserSid"),
        logon_id=known.get(f"{account}LogonId"),
        integrity=int(label[1]) if label else None,
    )
    process = ProcessHelper(
        pid=_pid(known, "NewProcessId"),
        parent_pid=_number(known, "ProcessId") or 0,
        image_name=lowercase(known.get("NewProcessName", "")),
        command_line=known.get("CommandLine") or None,  # empty unless Windows is set up to record it
        created=_time(event.time),
        start_key=number,
    )
    return Recording(process, details, event.computer)


def _known(data: Mapping[str, object]) -> dict[str, str]:
    """The fields that have a value; in these logs ``-`` means no value. A list or an object is no value of a field."""
    return {key: str(value) for key, value in data.items() if isinstance(value, str | int | float) and value != "-"}


def _number(known: Mapping[str, str], name: str) -> int | None:
    """A number of 32 bits, decimal or hexadecimal."""
    if (text := known.get(name)) is None:
        return None
    if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|[0-9]{1,10}", text) or (number := int(text, 0)) >= 1 << 32:
        raise ValueError(f"{name} is no number of 32 bits: {text[:40]}")
    return number


def _pid(known: Mapping[str, str], name: str) -> int:
    if (number := _number(known, name)) is None:
        raise ValueError(f"{name} is missing")
    return number


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it can be before the year 1
        return None
