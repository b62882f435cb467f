"""The state of the gate's model: processes, the controller, names, and the steps between states."""

from dataclasses import dataclass, field

from core.harness import (
    START_FILETIME,
    SYSTEM_DIRECTORY,
    VOLUMES,
)
from procmon.driver import protocol

ANY = "any"
CREATORS = {
    "smss": ANY, "csrss": ANY, "wininit": ANY, "services": ANY, "lsass": ANY,
    "winlogon": "smss", "logonui": "winlogon", "dwm": "winlogon svchost", "fontdrvhost": "wininit winlogon",
    "userinit": "winlogon", "conhost": "csrss", "svchost": "services", "consent": "svchost", "sihost": "svchost",
    "wudfhost": "svchost services", "drvinst": "svchost", "werfault": "svchost wermgr", "wermgr": "svchost werfault",
}  # fmt: skip
"""Programs that are never held below those creators."""
IMAGE_MS = 1000
IN_SYSWOW64 = ("svchost", "werfault", "wermgr")


def program_of(image_name: str) -> str:
    """The Windows program that this path names; "" = another program."""
    folder, _, name = image_name.rpartition("\\")
    stem = name.removesuffix(".exe")
    folders = ["c:\\windows\\system32", *(["c:\\windows\\syswow64"] if stem in IN_SYSWOW64 else [])]
    return stem if stem in CREATORS and name == stem + ".exe" and folder in folders else ""


def is_renamed(native_name: str, mapped_name: str) -> bool:
    names = native_name.lower(), mapped_name.lower()
    return all(name.startswith("\\device\\") for name in names) and names[0] != names[1]


def is_exempt(program: str, creator: str) -> bool:
    return bool(program) and (CREATORS[program] == ANY or creator in CREATORS[program].split())


@dataclass(eq=False)
class Process:
    """A record of the gate."""

    pid: int
    key: int = 0
    parent_pid: int = 0
    creator_pid: int = 0
    creator_tid: int = 0
    created: int = 0
    state: int = 0
    flags: int = 0
    verdict: int = protocol.VERDICT_NONE
    decided_by: int = protocol.BY_NONE
    exit_status: int = protocol.STATUS_UNKNOWN
    image_name: str = ""
    native_name: str = ""
    command_line: str = ""
    held_since: int = 0
    hold_number: int = 0
    held_ms: int = 0
    mark: object = None  # the registration whose controller started it
    fetched: bool = False
    woken: bool = False  # its threads may leave
    tries: int = 0
    exited: int = 0
    creation_name: str = ""
    creation_image: str = ""
    program: str = ""  # of Windows, that is never held below its creator
    creator_program: str = ""
    signature_level: int = protocol.UNKNOWN_LEVEL
    listed: bool = False
    image_seen: bool = False
    thread_seen: bool = False
    threads: int = 0  # waiting threads
    named_by: int = 0  # the number of the map of volumes that made its name
    leaving: int = 0  # waiting threads that were ended alone
    retry_at: int = 0
    last_try: bool = False


@dataclass(eq=False)
class Registration:
    """A controller, from REGISTER until its end."""

    owner: int
    pid: int
    flags: int = 0
    timeout_ms: int = 0
    on_timeout: int = protocol.VERDICT_ALLOW
    on_disconnect: int = protocol.VERDICT_ALLOW
    on_limit: int = protocol.VERDICT_ALLOW
    on_tamper: int = protocol.VERDICT_BLOCK
    on_pico: int = protocol.VERDICT_ALLOW
    rules: list[tuple[str, int]] = field(default_factory=list)


class ModelState:
    """The gate's state, and the steps that change it."""

    def __init__(self) -> None:
        self.now = 0
        self.key = START_FILETIME
        self.processes: list[Process] = []  # by key; also exited ones that are not fetched yet
        self.alive: dict[int, Process] = {}
        self.unseen: list[Process] = []
        self.to_terminate: list[Process] = []
        self.in_worker: list[Process] = []
        self.controller: Registration | None = None
        self.volumes = dict(VOLUMES)
        self.map = 0
        self.stopped = self.quiesced = False
        self.holds = 0
        self.counters = dict.fromkeys((n for n in protocol.COUNTERS.offsets if n != "reserved"), 0)
        self.shown = 0  # how often something became fetchable: the event is set at least then

    def held(self) -> list[Process]:
        """The processes that wait for a verdict, the longest first."""
        held = [process for process in self.processes if process.state == protocol.STATE_HELD]
        return sorted(held, key=lambda process: process.hold_number)

    def asked(self) -> list[Process]:
        """The held processes that a controller may answer."""
        return [process for process in self.held() if self.is_asked(process)]

    def add(self, process: Process) -> None:
        self.key += 1
        process.key = self.key
        self.processes.append(process)

    def dos_name(self, native_name: str) -> str:
        """Its DOS path, or itself in lowercase."""
        heads = {prefix: letter + ":" for prefix, letter in self.volumes.items()}
        heads |= {"\\Device\\Mup": "\\", "\\SystemRoot": SYSTEM_DIRECTORY.rpartition("\\")[0]}
        for prefix, head in heads.items():
            if native_name.lower().startswith(prefix.lower() + "\\"):
                rest = native_name[len(prefix) :]
                while prefix == "\\Device\\Mup" and rest.startswith("\\;") and "\\" in rest[1:]:
                    rest = rest[rest.index("\\", 1) :]  # the redirector, and its session
                return (head + rest).lower()
        return native_name.lower()

    def name(self, process: Process, native_name: str) -> None:
        process.native_name, process.flags = native_name, process.flags & ~protocol.FLAG_NAME_NATIVE
        process.image_name, process.named_by = self.dos_name(native_name), self.map
        if process.image_name == native_name.lower():
            process.flags |= protocol.FLAG_NAME_NATIVE

    def descends(self, creator_pid: int, younger: int) -> bool:
        """By creators, each with a record that is older than the next."""
        while self.controller:
            process = self.alive.get(creator_pid)
            if process is None or process.key >= younger:
                return False
            if creator_pid == self.controller.pid or process.mark is self.controller:
                return True
            creator_pid, younger = process.creator_pid, process.key
        return False

    def mark_descendant(self, process: Process) -> None:
        process.flags |= protocol.FLAG_CONTROLLER_DESCENDANT
        process.mark = self.controller

    def is_spared(self, process: Process) -> bool:
        if process.flags & protocol.FLAG_EXEMPT:
            return True
        controller = self.controller
        return bool(controller and controller.flags & protocol.EXEMPT_DESCENDANTS and process.mark is controller)

    def rule(self, process: Process) -> int | None:
        verdict = self.rule_for(process.native_name, process.image_name)
        if not process.flags & protocol.FLAG_NAME_CHANGED or verdict == protocol.VERDICT_BLOCK:
            return verdict
        blocked = self.rule_for(process.creation_name, process.creation_image) == protocol.VERDICT_BLOCK
        return protocol.VERDICT_BLOCK if blocked else None

    def rule_for(self, native_name: str, image_name: str) -> int | None:
        if self.controller and native_name:
            for path, verdict in self.controller.rules:
                if path.lower() in (native_name.lower(), image_name):
                    return verdict
        return None

    def is_asked(self, process: Process) -> bool:
        """Is it held, and its controller asked? Not before its image, for a second at most."""
        waited = self.now - process.held_since
        return process.state == protocol.STATE_HELD and (process.image_seen or waited >= IMAGE_MS)

    def show(self, process: Process) -> None:
        if self.controller and (process.state != protocol.STATE_HELD or self.is_asked(process)):
            self.shown += 1
            if process not in self.unseen:
                self.unseen.append(process)

    def show_change(self, process: Process) -> None:
        if process.fetched or process not in self.unseen:
            self.show(process)

    def decide(self, process: Process, verdict: int, decided_by: int) -> None:
        process.held_ms = self.now - process.held_since
        process.verdict, process.decided_by = verdict, decided_by
        if verdict == protocol.VERDICT_BLOCK:
            process.state = protocol.STATE_ANSWERED
            self.to_terminate.append(process)
        else:
            process.state = protocol.STATE_RELEASED
            process.woken = True

    def retire(self, process: Process, status: int) -> None:
        del self.alive[process.pid]
        shown_before = process.state != protocol.STATE_NEW
        if process.state == protocol.STATE_HELD:
            process.held_ms = self.now - process.held_since
        if process in self.to_terminate:
            self.to_terminate.remove(process)
        process.state, process.exit_status = protocol.STATE_EXITING, status
        process.exited = START_FILETIME + self.now * 10_000
        if process.threads and process not in self.in_worker:
            process.woken = True
        if shown_before and self.controller and self.controller.flags & protocol.REPORT_EXITS:
            self.show(process)
        self.forget_if_done(process)

    def forget_if_done(self, process: Process) -> None:
        if process.state == protocol.STATE_EXITING and not process.threads and process not in self.unseen:
            self.processes.remove(process)

    def end_controller(self, verdict: int, decided_by: int) -> None:
        for process in self.held():
            self.decide(process, verdict, decided_by)
            if decided_by == protocol.BY_DISCONNECT:
                self.counters["disconnects"] += 1
        unseen, self.unseen = self.unseen, []
        for process in unseen:
            self.forget_if_done(process)
        for process in self.processes:
            process.fetched = False
        self.controller = None

    def record(self, process: Process) -> protocol.Record:
        """The process as FETCH or LIST would return it now."""
        held = process.state == protocol.STATE_HELD
        waited = self.now - process.held_since
        timeout = self.controller.timeout_ms if self.controller else 0
        return protocol.Record(
            pid=process.pid,
            start_key=process.key,
            created=process.created,
            parent_pid=process.parent_pid,
            creator_pid=process.creator_pid,
            creator_tid=process.creator_tid,
            state=process.state,
            flags=process.flags | (protocol.FLAG_SEEN if process.fetched else 0),
            verdict=process.verdict,
            decided_by=process.decided_by,
            exit_status=process.exit_status,
            held_ms=waited if held else process.held_ms,
            hold_left_ms=0 if not held else max(timeout - waited, 0) if timeout else protocol.UNLIMITED,
            image_name=process.image_name,
            native_name=process.native_name,
            command_line=process.command_line,
            creation_name=process.creation_name,
            signature_level=process.signature_level,
            exited=process.exited,
        )
