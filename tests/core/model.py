"""What the gate should do, said once more and simply: lists and loops, no lock, no memory, no speed.

`test_model` drives this and the C++ core with the same steps, and compares everything that can be seen after each.
"""

from dataclasses import dataclass, field

from core.harness import (
    DEVICE_NOT_READY,
    INVALID_DEVICE_STATE,
    SHARING_VIOLATION,
    START_FILETIME,
    SUCCESS,
    SYSTEM_DIRECTORY,
    VOLUMES,
)
from procmon.driver import protocol

CRITICAL = {
    f"c:\\windows\\{folder}\\{name}.exe"
    for folder in ("system32", "syswow64")
    for name in [
        "smss",
        "csrss",
        "wininit",
        "winlogon",
        "services",
        "lsass",
        "logonui",
        "dwm",
        "fontdrvhost",
        "conhost",
        "werfault",
        "wermgr",
    ]
}
TERMINATE_TRIES = 20


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
    waits: bool = False  # a thread is in its hold
    woken: bool = False  # and may leave
    tries: int = 0


@dataclass(eq=False)
class Registration:
    """A controller, from REGISTER until it goes."""

    owner: int
    pid: int
    flags: int = 0
    timeout_ms: int = 0
    on_timeout: int = protocol.VERDICT_ALLOW
    on_disconnect: int = protocol.VERDICT_ALLOW
    rules: list[tuple[str, int]] = field(default_factory=list)


class Model:
    """The gate."""

    def __init__(self) -> None:
        self.now = 0
        self.key = START_FILETIME
        self.processes: list[Process] = []  # by key; with those that have gone and are still to be fetched
        self.alive: dict[int, Process] = {}
        self.unseen: list[Process] = []
        self.condemned: list[Process] = []
        self.in_worker: list[Process] = []
        self.controller: Registration | None = None
        self.volumes = dict(VOLUMES)
        self.stopped = False
        self.holds = 0
        self.counters = dict.fromkeys((n for n in protocol.COUNTERS.offsets if n != "reserved"), 0)
        self.shown = 0  # how often something became fetchable: the event is set at least then

    # ---------------------------------------------------------------------------------------------- notifications

    def create(
        self, pid: int, *, parent_pid: int, creator_pid: int, creator_tid: int, created: int, native_name: str,
        command_line: str, running: bool, refusable: bool, memory: bool,
    ) -> bool:  # fmt: skip
        if self.stopped:
            return False
        if not running:
            self.counters["created"] += 1
        if not memory:
            self.counters["allocation_failures"] += 1
        if pid in self.alive:
            if running:
                return False
            self.counters["pid_reused"] += 1
            self.retire(self.alive[pid], protocol.STATUS_UNKNOWN)
        process = Process(pid, 0, parent_pid, creator_pid, creator_tid, created)
        process.command_line = command_line[:4096]
        if len(command_line) > 4096:
            process.flags |= protocol.FLAG_COMMAND_LINE_TRUNCATED
        if running:
            process.flags |= protocol.FLAG_RUNNING_BEFORE
            if not native_name:
                process.flags |= protocol.FLAG_NAME_MISSING
        elif not created:
            process.created = START_FILETIME + self.now * 10_000
        if native_name and memory:
            self.name(process, native_name)
        descendant = not running and (self.descends(parent_pid) or self.descends(creator_pid))
        if descendant:
            process.flags |= protocol.FLAG_CONTROLLER_DESCENDANT
            process.mark = self.controller
        if process.image_name in CRITICAL:
            process.flags |= protocol.FLAG_EXEMPT
        refused = refusable and not self.is_spared(process) and self.rule(process) == protocol.VERDICT_BLOCK
        if refused:
            self.counters["rule_blocked"] += 1
        if not memory:
            return refused
        self.add(process)
        if refused:
            process.flags |= protocol.FLAG_NEVER_STARTED
            process.state = protocol.STATE_EXITING
            process.verdict, process.decided_by = protocol.VERDICT_BLOCK, protocol.BY_RULE
            process.exit_status = protocol.STATUS_BLOCKED
            self.show(process)
            return True
        process.state = protocol.STATE_NAMED if running else protocol.STATE_NEW
        self.alive[pid] = process
        if running:
            self.show(process)
        return False

    def image(self, pid: int, native_name: str, *, protected: bool, dying: bool, memory: bool) -> Process | None:
        """The process, if its thread waits now."""
        if self.stopped or pid in (0, 4):
            return None
        process = self.alive.get(pid)
        if process is None and dying:
            return None
        if process is None:
            self.counters["image_without_create"] += 1
            if not memory:
                self.counters["allocation_failures"] += 1
                return None
            process = self.alive[pid] = Process(pid, state=protocol.STATE_NAMED, flags=protocol.FLAG_CREATE_MISSED)
            self.add(process)
        elif process.state != protocol.STATE_NEW:
            return None
        if native_name and memory:
            self.name(process, native_name)
        elif native_name:
            self.counters["allocation_failures"] += 1
        if not process.native_name:
            process.flags |= protocol.FLAG_NAME_MISSING
            if not native_name:
                self.counters["missing_name"] += 1

        controller = self.controller
        if process.image_name in CRITICAL or protected or (controller and controller.pid == pid):
            process.flags |= protocol.FLAG_EXEMPT
        rule = self.rule(process)
        if self.is_spared(process):
            self.counters["exempt"] += 1
            decided_by = protocol.BY_EXEMPT
        elif controller is None:
            decided_by = protocol.BY_NO_CONTROLLER
        elif (native_name and not process.native_name) or process.flags & protocol.FLAG_CREATE_MISSED:
            decided_by = protocol.BY_LIMIT
        elif rule == protocol.VERDICT_ALLOW:
            self.counters["rule_allowed"] += 1
            decided_by = protocol.BY_RULE
        else:
            self.holds += 1
            process.waits, process.held_since, process.hold_number = True, self.now, self.holds
            if rule == protocol.VERDICT_BLOCK:
                self.counters["rule_blocked"] += 1
                process.state = protocol.STATE_ANSWERED
                process.verdict, process.decided_by = protocol.VERDICT_BLOCK, protocol.BY_RULE
                self.condemned.append(process)
            elif dying:
                self.counters["died_held"] += 1
                process.state = protocol.STATE_ANSWERED
                self.condemned.append(process)
            else:
                self.counters["held"] += 1
                process.state = protocol.STATE_HELD
            self.show(process)
            return process
        process.state = protocol.STATE_NAMED
        process.verdict, process.decided_by = protocol.VERDICT_ALLOW, decided_by
        self.show(process)
        return None

    def exit(self, pid: int, status: int) -> None:
        if self.controller and self.controller.pid == pid:
            self.end_controller(self.controller.on_disconnect, protocol.BY_DISCONNECT)
        if pid not in self.alive:
            self.counters["exit_without_create"] += status != protocol.STATUS_BLOCKED
            return
        self.counters["exited"] += 1
        self.retire(self.alive[pid], status)

    # ------------------------------------------------------------------------------------- held threads, the worker

    def look(self, process: Process, dying: bool = False) -> bool:
        """A held thread looks again; does it still wait?"""
        controller = self.controller
        if process.state == protocol.STATE_HELD and dying:
            self.counters["died_held"] += 1
            process.state, process.held_ms = protocol.STATE_ANSWERED, self.now - process.held_since
            self.condemned.append(process)
        elif process.state == protocol.STATE_HELD and controller and controller.timeout_ms:
            if self.now - process.held_since >= controller.timeout_ms:
                self.counters["timeouts"] += 1
                self.decide(process, controller.on_timeout, protocol.BY_TIMEOUT)
                if process.fetched:
                    self.show(process)
        return not process.woken

    def leave(self, process: Process) -> int:
        process.waits = False
        self.forget_if_done(process)
        return protocol.VERDICT_BLOCK if process.verdict == protocol.VERDICT_BLOCK else protocol.VERDICT_ALLOW

    def next_condemned(self) -> Process | None:
        if not self.condemned:
            return None
        self.in_worker.append(self.condemned.pop(0))
        return self.in_worker[-1]

    def terminated(self, process: Process, died: bool) -> None:
        self.in_worker.remove(process)
        if not died:
            self.counters["terminate_failures"] += 1
            process.tries += 1
        if process.state == protocol.STATE_EXITING:
            process.woken = True
        elif died or process.tries >= TERMINATE_TRIES:
            process.state = protocol.STATE_RELEASED
            process.woken = True
        else:
            self.condemned.append(process)

    # --------------------------------------------------------------------------------------------------- requests

    def may(self, owner: int) -> int:
        """The status of a request for the controller only."""
        if self.stopped:
            return DEVICE_NOT_READY
        return SUCCESS if self.controller and self.controller.owner == owner else INVALID_DEVICE_STATE

    def register(self, new: Registration) -> int:
        if self.stopped:
            return DEVICE_NOT_READY
        old = self.controller
        if old and old.owner != new.owner:
            return SHARING_VIOLATION
        if old:
            old.pid, old.flags, old.timeout_ms = new.pid, new.flags, new.timeout_ms
            old.on_timeout, old.on_disconnect = new.on_timeout, new.on_disconnect
        else:
            self.controller = new
            for process in self.processes:
                if process.state not in (protocol.STATE_NEW, protocol.STATE_EXITING):
                    process.flags |= protocol.FLAG_RUNNING_BEFORE
                    process.fetched = False
                    self.unseen.append(process)
        self.shown += bool(self.unseen or self.held())
        return SUCCESS

    def fetch(self, room: int) -> protocol.Records:
        records, needed = [], 0
        room -= protocol.RECORDS_HEADER.size
        while self.unseen and not needed:
            process = self.unseen[0]
            record = self.record(process)
            size = len(record.pack())
            if size > room:
                needed = size
                break
            room -= size
            records.append(record)
            del self.unseen[0]
            process.fetched = True
            self.forget_if_done(process)
        return protocol.Records(tuple(records), needed)

    def listing(self, after: int, room: int) -> protocol.Records:
        records: list[protocol.Record] = []
        room -= protocol.RECORDS_HEADER.size
        for process in self.processes:
            if process.key <= after:
                continue
            record = self.record(process)
            size = len(record.pack())
            if size > room:
                return protocol.Records(tuple(records), size, after)
            room -= size
            records.append(record)
            after = process.key
        return protocol.Records(tuple(records))

    def answer(self, pid: int, key: int, verdict: int) -> int:
        process = self.alive.get(pid)
        if process is None:
            self.counters["unknown_verdicts"] += 1
            return protocol.RESULT_UNKNOWN
        if process.key != key:
            self.counters["stale_verdicts"] += 1
            return protocol.RESULT_STALE
        if process.state == protocol.STATE_HELD:
            self.counters["allowed" if verdict == protocol.VERDICT_ALLOW else "blocked"] += 1
            self.decide(process, verdict, protocol.BY_CONTROLLER)
            return protocol.RESULT_DONE
        self.counters["late_verdicts"] += 1
        answered = process.state in (protocol.STATE_ANSWERED, protocol.STATE_RELEASED)
        return protocol.RESULT_ANSWERED if answered else protocol.RESULT_NOT_HELD

    def reset(self) -> None:
        assert self.controller
        self.end_controller(self.controller.on_disconnect, protocol.BY_DISCONNECT)
        self.counters = dict.fromkeys(self.counters, 0)

    def close(self, owner: int) -> None:
        if self.controller and self.controller.owner == owner:
            self.end_controller(self.controller.on_disconnect, protocol.BY_DISCONNECT)

    def stop(self) -> None:
        self.stopped = True
        if self.controller:
            self.end_controller(protocol.VERDICT_ALLOW, protocol.BY_STOP)

    def info(self) -> dict[str, int]:
        """INFO, but for its size, its version and its features."""
        controller = self.controller
        return self.counters | {
            "controller_pid": controller.pid if controller else 0,
            "record_count": len(self.processes),
            "held_count": len(self.held()),
            "rule_count": len(controller.rules) if controller else 0,
            "hold_timeout_ms": controller.timeout_ms if controller else 0,
        }

    # ------------------------------------------------------------------------------------------------------- steps

    def held(self) -> list[Process]:
        """Who waits for a verdict, the longest first."""
        held = [process for process in self.processes if process.state == protocol.STATE_HELD]
        return sorted(held, key=lambda process: process.hold_number)

    def add(self, process: Process) -> None:
        self.key += 1
        process.key = self.key
        self.processes.append(process)

    def name(self, process: Process, native_name: str) -> None:
        process.native_name, process.flags = native_name, process.flags & ~protocol.FLAG_NAME_NATIVE
        heads = {prefix: letter + ":" for prefix, letter in self.volumes.items()}
        heads |= {"\\Device\\Mup": "\\", "\\SystemRoot": SYSTEM_DIRECTORY.rpartition("\\")[0]}
        for prefix, head in heads.items():
            if native_name.lower().startswith(prefix.lower() + "\\"):
                process.image_name = (head + native_name[len(prefix) :]).lower()
                return
        process.image_name = native_name.lower()
        process.flags |= protocol.FLAG_NAME_NATIVE

    def descends(self, pid: int) -> bool:
        younger = self.key + 1
        while self.controller:
            if pid == self.controller.pid:
                return True
            process = self.alive.get(pid)
            if process is None or process.key >= younger:
                return False
            if process.mark is self.controller:
                return True
            pid, younger = process.parent_pid, process.key
        return False

    def is_spared(self, process: Process) -> bool:
        if process.flags & protocol.FLAG_EXEMPT:
            return True
        controller = self.controller
        return bool(controller and controller.flags & protocol.EXEMPT_DESCENDANTS and process.mark is controller)

    def rule(self, process: Process) -> int | None:
        if self.controller and process.native_name:
            for path, verdict in self.controller.rules:
                if path.lower() in (process.native_name.lower(), process.image_name):
                    return verdict
        return None

    def show(self, process: Process) -> None:
        if self.controller:
            self.shown += 1
            if process not in self.unseen:
                self.unseen.append(process)

    def decide(self, process: Process, verdict: int, decided_by: int) -> None:
        process.held_ms = self.now - process.held_since
        process.verdict, process.decided_by = verdict, decided_by
        if verdict == protocol.VERDICT_BLOCK:
            process.state = protocol.STATE_ANSWERED
            self.condemned.append(process)
        else:
            process.state = protocol.STATE_RELEASED
            process.woken = True

    def retire(self, process: Process, status: int) -> None:
        del self.alive[process.pid]
        shown_before = process.state != protocol.STATE_NEW
        if process.state == protocol.STATE_HELD:
            process.held_ms = self.now - process.held_since
        if process in self.condemned:
            self.condemned.remove(process)
        process.state, process.exit_status = protocol.STATE_EXITING, status
        if process.waits and process not in self.in_worker:
            process.woken = True
        if shown_before and self.controller and self.controller.flags & protocol.REPORT_EXITS:
            self.show(process)
        self.forget_if_done(process)

    def forget_if_done(self, process: Process) -> None:
        if process.state == protocol.STATE_EXITING and not process.waits and process not in self.unseen:
            self.processes.remove(process)

    def end_controller(self, verdict: int, decided_by: int) -> None:
        for process in self.held():
            self.decide(process, verdict, decided_by)
            if decided_by == protocol.BY_DISCONNECT:
                self.counters["disconnects"] += 1
        unseen, self.unseen = self.unseen, []
        for process in unseen:
            self.forget_if_done(process)
        self.controller = None

    def record(self, process: Process) -> protocol.Record:
        """What FETCH or LIST would give for it now."""
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
        )
