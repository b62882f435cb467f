"""What the gate should do, said once more and simply: lists and loops, no lock, no memory, no speed.

`test_model` drives this and the C++ core with the same steps, and compares everything that can be seen after each.
"""

from dataclasses import dataclass, field

from core.harness import (
    CRITICAL,
    DEVICE_NOT_READY,
    DIED,
    FAILED,
    INVALID_DEVICE_STATE,
    SHARING_VIOLATION,
    START_FILETIME,
    SUCCESS,
    SYSTEM_DIRECTORY,
    VOLUMES,
)
from procmon.driver import protocol

QUICK_TRIES = 20
ANY = "any"
CREATORS = {
    "smss": ANY, "csrss": ANY, "wininit": ANY, "services": ANY, "lsass": ANY,
    "winlogon": "smss", "logonui": "winlogon", "dwm": "winlogon svchost", "fontdrvhost": "wininit winlogon",
    "userinit": "winlogon", "conhost": "csrss", "svchost": "services", "consent": "svchost", "sihost": "svchost",
    "wudfhost": "svchost services", "drvinst": "svchost", "werfault": "svchost wermgr", "wermgr": "svchost werfault",
}  # fmt: skip
"""Programs that are never held below those creators."""
IN_SYSWOW64 = ("svchost", "werfault", "wermgr")


def program_of(image_name: str) -> str:
    """The program of Windows that this path means; "" = another one."""
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
    threads: int = 0  # that wait
    named_by: int = 0  # the number of the map of volumes that its name was made by
    leaving: int = 0  # of them, those that were ended alone
    retry_at: int = 0
    last_try: bool = False


@dataclass(eq=False)
class Registration:
    """A controller, from REGISTER until it goes."""

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


class Model:
    """The gate."""

    def __init__(self) -> None:
        self.now = 0
        self.key = START_FILETIME
        self.processes: list[Process] = []  # by key; with those that have gone and are still to be fetched
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

    # ---------------------------------------------------------------------------------------------- notifications

    def create(
        self, pid: int, *, parent_pid: int, creator_pid: int, creator_tid: int, created: int, native_name: str,
        command_line: str, file_flags: int, running: bool, refusable: bool, pico: bool, memory: bool,
    ) -> bool:  # fmt: skip
        if self.stopped:
            return False
        if not running:
            self.counters["created"] += 1
        if not memory:
            self.counters["allocation_failures"] += 1
        if not running and self.controller and self.controller.pid == pid:
            self.disconnect()  # its pid is free, so it has gone
        if pid in self.alive:
            if running:
                return False
            self.counters["pid_reused"] += 1
            self.retire(self.alive[pid], protocol.STATUS_UNKNOWN)
        if not memory:
            self.counters["reserve_used"] += 1
        process = Process(pid, 0, parent_pid, creator_pid, creator_tid, created, flags=file_flags, listed=running)
        process.command_line = command_line[:4096] if memory else ""  # the reserve has no room for one
        if len(command_line) > len(process.command_line):
            process.flags |= protocol.FLAG_COMMAND_LINE_TRUNCATED
        if creator_pid not in (0, parent_pid):
            process.flags |= protocol.FLAG_PARENT_CLAIMED
        if running:
            process.flags |= protocol.FLAG_RUNNING_BEFORE
            if not native_name:
                process.flags |= protocol.FLAG_NAME_MISSING
        elif not created:
            process.created = START_FILETIME + self.now * 10_000
        if native_name:
            self.name(process, native_name)
        creator = None if running else self.alive.get(creator_pid)
        process.creator_program = creator.program if creator else ""
        program = program_of(process.image_name)
        if program if running else is_exempt(program, process.creator_program):
            process.program = program
            process.flags |= protocol.FLAG_EXEMPT
        if not running and self.descends(creator_pid):
            process.flags |= protocol.FLAG_CONTROLLER_DESCENDANT
            process.mark = self.controller
        if pico:
            process.flags |= protocol.FLAG_PICO
        refused_by = protocol.BY_NONE
        if refusable and self.controller and not self.is_spared(process):
            if self.rule(process) == protocol.VERDICT_BLOCK:
                self.counters["rule_blocked"] += 1
                refused_by = protocol.BY_RULE
            elif pico and self.controller.on_pico == protocol.VERDICT_BLOCK:
                self.counters["pico_blocked"] += 1
                refused_by = protocol.BY_PICO
        self.add(process)
        if refused_by:
            process.flags |= protocol.FLAG_NEVER_STARTED
            process.state = protocol.STATE_EXITING
            process.verdict, process.decided_by = protocol.VERDICT_BLOCK, refused_by
            process.exit_status = protocol.STATUS_BLOCKED
            self.show(process)
            return True
        process.state = protocol.STATE_NAMED if running or pico else protocol.STATE_NEW
        self.alive[pid] = process
        if pico:
            spared = self.is_spared(process)
            by = protocol.BY_EXEMPT if spared else protocol.BY_PICO
            self.release_unasked(process, by if self.controller else protocol.BY_NO_CONTROLLER)
        elif running:
            self.show(process)
        return False

    def image(
        self, pid: int, native_name: str, *, mapped_name: str, protected: bool, dying: bool, own: bool, memory: bool
    ) -> Process | None:
        """The process, if its thread waits now."""
        if self.stopped or pid in (0, 4):
            return None
        process = self.alive.get(pid)
        if process is None and dying:
            return None
        renamed = is_renamed(native_name, mapped_name)
        name = mapped_name if renamed else native_name
        if process is None:
            self.counters["image_without_create"] += 1
            if not memory:
                self.counters["allocation_failures"] += 1
                self.counters["reserve_used"] += 1
            process = self.alive[pid] = Process(pid, state=protocol.STATE_NAMED, flags=protocol.FLAG_CREATE_MISSED)
            self.add(process)
        elif process.state != protocol.STATE_NEW and not (
            process.state == protocol.STATE_NAMED and process.listed and not process.image_seen and own
        ):
            return self.join_foreign(process) if own and self.is_held(process) and not dying else None
        program = program_of(self.dos_name(native_name) if native_name else process.image_name)
        process.image_seen = True
        kept = not renamed and name == process.native_name and process.named_by == self.map
        if name and not kept and not memory:
            self.counters["allocation_failures"] += 1
        if name:
            if renamed and process.native_name:
                process.flags |= protocol.FLAG_NAME_CHANGED
                process.creation_name, process.creation_image = process.native_name, process.image_name
            self.name(process, name)
        if not process.native_name:
            process.flags |= protocol.FLAG_NAME_MISSING
            self.counters["missing_name"] += not name
        return self.first_image(process, program, protected=protected, dying=dying, own=own)

    def own_thread(self, pid: int, *, protected: bool, dying: bool) -> Process | None:
        """The same for a thread that is notified in its own context."""
        process = self.alive.get(pid)
        if self.stopped or dying or process is None:
            return None
        if process.state != protocol.STATE_NEW:
            return self.join_foreign(process) if self.is_held(process) else None
        if not process.native_name:
            process.flags |= protocol.FLAG_NAME_MISSING
        process.image_seen = True
        program = program_of(process.image_name)
        return self.first_image(process, program, protected=protected, dying=False, own=False)

    def any_thread(self, pid: int) -> None:
        """A thread that is notified in its creator's context."""
        process = self.alive.get(pid)
        if self.stopped or process is None or not (process.state == protocol.STATE_NEW or self.is_held(process)):
            return
        if process.state == protocol.STATE_NEW and not process.thread_seen:
            process.thread_seen = True
            return
        self.counters["foreign_threads"] += 1
        process.flags |= protocol.FLAG_FOREIGN_THREAD
        if process.state == protocol.STATE_HELD:
            if self.controller and self.controller.on_tamper == protocol.VERDICT_BLOCK:
                self.decide(process, protocol.VERDICT_BLOCK, protocol.BY_TAMPER)
            if process.fetched:
                self.show(process)

    def first_image(self, process: Process, program: str, *, protected: bool, dying: bool, own: bool) -> Process | None:
        controller = self.controller
        creator = "" if process.listed else process.creator_program
        process.program = program if is_exempt(program, creator) else ""
        process.flags &= ~protocol.FLAG_EXEMPT
        if process.program or protected or (controller and controller.pid == process.pid):
            process.flags |= protocol.FLAG_EXEMPT
        rule = self.rule(process)
        if self.is_spared(process):
            self.counters["exempt"] += 1
            self.release_unasked(process, protocol.BY_EXEMPT)
            return None
        if controller is None:
            self.release_unasked(process, protocol.BY_NO_CONTROLLER)
            return None
        if process.flags & protocol.FLAG_CREATE_MISSED and not own:
            self.counters["limit_allowed"] += 1
            self.release_unasked(process, protocol.BY_LIMIT)
            return None
        if rule == protocol.VERDICT_ALLOW:
            self.counters["rule_allowed"] += 1
            self.release_unasked(process, protocol.BY_RULE)
            return None
        self.holds += 1
        process.threads, process.held_since, process.hold_number = 1, self.now, self.holds
        verdict, by = protocol.VERDICT_NONE, protocol.BY_NONE
        if rule == protocol.VERDICT_BLOCK:
            self.counters["rule_blocked"] += 1
            verdict, by = protocol.VERDICT_BLOCK, protocol.BY_RULE
        elif dying:
            self.counters["died_held"] += 1
        elif process.flags & protocol.FLAG_FOREIGN_THREAD and controller.on_tamper == protocol.VERDICT_BLOCK:
            verdict, by = protocol.VERDICT_BLOCK, protocol.BY_TAMPER
        else:
            self.counters["held"] += 1
            process.state = protocol.STATE_HELD
            self.show(process)
            return process
        process.state, process.verdict, process.decided_by = protocol.STATE_ANSWERED, verdict, by
        self.to_terminate.append(process)
        self.show(process)
        return process

    def release_unasked(self, process: Process, decided_by: int) -> None:
        process.state = protocol.STATE_NAMED
        process.verdict, process.decided_by = protocol.VERDICT_ALLOW, decided_by
        self.show(process)

    def join_foreign(self, process: Process) -> Process:
        self.counters["foreign_threads"] += 1
        process.flags |= protocol.FLAG_FOREIGN_THREAD
        process.threads += 1
        if process.state == protocol.STATE_HELD and process.fetched:
            self.show(process)
        return process

    def is_held(self, process: Process) -> bool:
        """Do threads of it wait, and are to wait on?"""
        return bool(process.threads) and not process.woken

    def exit(self, pid: int, status: int) -> None:
        if self.controller and self.controller.pid == pid:
            self.disconnect()
        if pid not in self.alive:
            self.counters["exit_without_create"] += status != protocol.STATUS_BLOCKED
            return
        self.counters["exited"] += 1
        self.retire(self.alive[pid], status)

    # ------------------------------------------------------------------------------------- held threads, the worker

    def look(self, process: Process, dying: bool = False) -> bool:
        """A held thread looks again; does it still wait?"""
        controller = self.controller
        if dying and process.threads - process.leaving > 1 and not process.woken:
            process.leaving += 1
            return False  # it goes alone
        if process.state == protocol.STATE_HELD and dying:
            self.counters["died_held"] += 1
            process.state, process.held_ms = protocol.STATE_ANSWERED, self.now - process.held_since
            self.to_terminate.append(process)
        elif process.state == protocol.STATE_HELD and controller and controller.timeout_ms:
            if self.now - process.held_since >= controller.timeout_ms:
                self.counters["timeouts"] += 1
                self.decide(process, controller.on_timeout, protocol.BY_TIMEOUT)
                if process.fetched:
                    self.show(process)
        return not process.woken

    def leave(self, process: Process, *, alone: bool = False) -> int:
        process.threads -= 1
        process.leaving -= alone
        self.forget_if_done(process)
        return protocol.VERDICT_BLOCK if process.verdict == protocol.VERDICT_BLOCK else protocol.VERDICT_ALLOW

    def next_to_terminate(self) -> Process | None:
        for process in self.to_terminate:
            if process.retry_at <= self.now or self.stopped:
                self.to_terminate.remove(process)
                self.in_worker.append(process)
                process.last_try = self.stopped
                return process
        return None

    def worker_waits_ms(self) -> int:
        """After how long the worker asks again, when there is nothing to do now."""
        return min((process.retry_at - self.now for process in self.to_terminate), default=protocol.UNLIMITED)

    def terminated(self, process: Process, outcome: int) -> None:
        self.in_worker.remove(process)
        self.counters["terminate_failures"] += outcome == FAILED
        self.counters["critical_refused"] += outcome == CRITICAL
        if process.state == protocol.STATE_EXITING:
            process.woken = True
        elif outcome == DIED or process.last_try:
            process.state = protocol.STATE_RELEASED
            process.woken = True
        else:
            process.tries += outcome == FAILED
            quick = outcome == FAILED and process.tries < QUICK_TRIES
            process.retry_at = self.now + (50 if quick else 1000)
            self.to_terminate.append(process)
            if not quick and not process.flags & protocol.FLAG_TERMINATE_FAILED:
                process.flags |= protocol.FLAG_TERMINATE_FAILED
                self.show(process)

    # --------------------------------------------------------------------------------------------------- requests

    def may(self, owner: int) -> int:
        """The status of a request for the controller only."""
        if self.stopped or self.quiesced:
            return DEVICE_NOT_READY
        return SUCCESS if self.controller and self.controller.owner == owner else INVALID_DEVICE_STATE

    def register(self, new: Registration) -> int:
        if self.stopped or self.quiesced:
            return DEVICE_NOT_READY
        old = self.controller
        if old and old.owner != new.owner:
            return SHARING_VIOLATION
        if old:
            old.pid, old.flags, old.timeout_ms = new.pid, new.flags, new.timeout_ms
            old.on_timeout, old.on_disconnect = new.on_timeout, new.on_disconnect
            old.on_limit, old.on_tamper, old.on_pico = new.on_limit, new.on_tamper, new.on_pico
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
        self.disconnect()
        self.counters = dict.fromkeys(self.counters, 0)

    def close(self, owner: int) -> None:
        if self.controller and self.controller.owner == owner:
            self.disconnect()

    def disconnect(self) -> None:
        assert self.controller
        self.end_controller(self.controller.on_disconnect, protocol.BY_DISCONNECT)

    def quiesce(self) -> None:
        self.quiesced = True
        if self.controller:
            self.end_controller(self.controller.on_disconnect, protocol.BY_STOP)

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
            "timeout_verdict": controller.on_timeout if controller else 0,
            "disconnect_verdict": controller.on_disconnect if controller else 0,
            "limit_verdict": controller.on_limit if controller else 0,
            "tamper_verdict": controller.on_tamper if controller else 0,
            "pico_verdict": controller.on_pico if controller else 0,
            "register_flags": controller.flags if controller else 0,
            "quiesced": self.quiesced,
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

    def descends(self, creator_pid: int) -> bool:
        """By creators, each with a record that is older than the next."""
        younger = self.key + 1
        while self.controller:
            process = self.alive.get(creator_pid)
            if process is None or process.key >= younger:
                return False
            if creator_pid == self.controller.pid or process.mark is self.controller:
                return True
            creator_pid, younger = process.creator_pid, process.key
        return False

    def is_spared(self, process: Process) -> bool:
        if process.flags & protocol.FLAG_EXEMPT:
            return True
        controller = self.controller
        return bool(controller and controller.flags & protocol.EXEMPT_DESCENDANTS and process.mark is controller)

    def rule(self, process: Process) -> int | None:
        verdict = self.rule_for(process.native_name, process.image_name)
        if not process.creation_name or verdict == protocol.VERDICT_BLOCK:
            return verdict
        blocked = self.rule_for(process.creation_name, process.creation_image) == protocol.VERDICT_BLOCK
        return protocol.VERDICT_BLOCK if blocked else None

    def rule_for(self, native_name: str, image_name: str) -> int | None:
        if self.controller and native_name:
            for path, verdict in self.controller.rules:
                if path.lower() in (native_name.lower(), image_name):
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
            creation_name=process.creation_name,
            signature_level=process.signature_level,
            exited=process.exited,
        )
