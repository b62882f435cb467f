"""A simple model of the gate: lists and loops, without locks, memory management or speed.

`test_model` drives this and the C++ core with the same steps, and compares all observable state after each step.
"""

from core.harness import (
    CRITICAL,
    DEVICE_NOT_READY,
    DIED,
    FAILED,
    INVALID_DEVICE_STATE,
    SHARING_VIOLATION,
    START_FILETIME,
    SUCCESS,
)
from core.model_state import ModelState, Process, Registration, is_exempt, is_renamed, program_of
from procmon.driver import protocol

QUICK_TRIES = 20


class Model(ModelState):
    """The gate: notifications, held threads, the worker, requests."""

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
            self.disconnect()  # its pid is free, so it has exited
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
        if not running and self.descends(creator_pid, self.key + 1):
            self.mark_descendant(process)
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
        """The process if its thread waits now, else None."""
        if self.stopped or pid in (0, 4):
            return None
        process = self.alive.get(pid)
        if process is None and dying:
            return None
        created, mapped = native_name, mapped_name
        if not mapped_name and process and process.native_name:
            created, mapped = process.native_name, native_name
        renamed = is_renamed(created, mapped)
        name = mapped if renamed else native_name
        if process is None:
            self.counters["image_without_create"] += 1
            if not memory:
                self.counters["allocation_failures"] += 1
                self.counters["reserve_used"] += 1
            process = self.alive[pid] = Process(pid, state=protocol.STATE_NAMED, flags=protocol.FLAG_CREATE_MISSED)
            self.add(process)
        elif not self.awaits_image(process, own):
            return self.join_foreign(process) if own and self.is_held(process) and not dying else None
        name_then = created if renamed else native_name
        program = program_of(self.dos_name(name_then) if name_then else process.image_name)
        process.image_seen = True
        kept = not renamed and name == process.native_name and process.named_by == self.map
        if name and not kept and not memory:
            self.counters["allocation_failures"] += 1
        if name:
            if renamed:
                process.flags |= protocol.FLAG_NAME_CHANGED
                process.creation_name, process.creation_image = process.native_name, process.image_name
            self.name(process, name)
        process.flags &= ~protocol.FLAG_NAME_MISSING
        if not process.native_name:
            process.flags |= protocol.FLAG_NAME_MISSING
            self.counters["missing_name"] += not name
        return self.first_image(process, program, protected=protected, dying=dying, own=own)

    def awaits_image(self, process: Process, own: bool) -> bool:
        """Can its first image come? Of a listed one, or one that is held for an extra thread, none has been seen."""
        listed = process.state == protocol.STATE_NAMED and process.listed and own
        unseen = not process.image_seen and (listed or process.state == protocol.STATE_HELD)
        return process.state == protocol.STATE_NEW or unseen

    def own_thread(self, pid: int, *, protected: bool, dying: bool) -> Process | None:
        """The same for a thread that is notified in its own context."""
        process = self.alive.get(pid)
        if self.stopped or dying or process is None:
            return None
        if process.state != protocol.STATE_NEW:
            return self.join_foreign(process) if self.is_held(process) else None
        if not process.native_name:
            process.flags |= protocol.FLAG_NAME_MISSING
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
            self.show_change(process)

    def first_image(self, process: Process, program: str, *, protected: bool, dying: bool, own: bool) -> Process | None:
        controller = self.controller
        creator = "" if process.listed else process.creator_program
        process.program = program if is_exempt(program, creator) else ""
        process.flags &= ~protocol.FLAG_EXEMPT
        if process.program or protected or (controller and controller.pid == process.pid):
            process.flags |= protocol.FLAG_EXEMPT
        if not process.listed and self.descends(process.creator_pid, process.key):
            self.mark_descendant(process)
        rule = self.rule(process)
        on_tamper = controller.on_tamper if controller else protocol.VERDICT_NONE
        tampered = process.flags & protocol.FLAG_FOREIGN_THREAD and on_tamper == protocol.VERDICT_BLOCK
        extra_waits = process.state == protocol.STATE_HELD  # it came before the image
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
        if rule == protocol.VERDICT_ALLOW and process.image_seen and not tampered:
            self.counters["rule_allowed"] += 1
            self.release_unasked(process, protocol.BY_RULE)
            return None
        if extra_waits and rule != protocol.VERDICT_BLOCK and not tampered:
            self.join_foreign(process)
            self.show(process)
            return process
        self.holds += 1
        if extra_waits:
            process.held_ms = self.now - process.held_since
        process.threads, process.held_since, process.hold_number = process.threads + 1, self.now, self.holds
        verdict, by = protocol.VERDICT_NONE, protocol.BY_NONE
        if rule == protocol.VERDICT_BLOCK:
            self.counters["rule_blocked"] += 1
            verdict, by = protocol.VERDICT_BLOCK, protocol.BY_RULE
        elif dying:
            self.counters["died_held"] += 1
        elif tampered:
            verdict, by = protocol.VERDICT_BLOCK, protocol.BY_TAMPER
        else:
            self.counters["held"] += 1
            process.state = protocol.STATE_HELD
            process.fetched = False
            self.show(process)
            return process
        process.state, process.verdict, process.decided_by = protocol.STATE_ANSWERED, verdict, by
        self.to_terminate.append(process)
        self.show(process)
        return process

    def release_unasked(self, process: Process, decided_by: int) -> None:
        if process.state == protocol.STATE_HELD:
            self.decide(process, protocol.VERDICT_ALLOW, decided_by)
        else:
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
        """Do threads of the process wait, and must continue to wait?"""
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
        """A held thread checks again; does it still wait?"""
        controller = self.controller
        if dying and process.threads - process.leaving > 1 and not process.woken:
            process.leaving += 1
            return False  # it leaves alone
        if process.state == protocol.STATE_HELD and dying:
            self.counters["died_held"] += 1
            process.state, process.held_ms = protocol.STATE_ANSWERED, self.now - process.held_since
            self.to_terminate.append(process)
        elif process.state == protocol.STATE_HELD and controller and controller.timeout_ms:
            if self.now - process.held_since >= controller.timeout_ms:
                self.counters["timeouts"] += 1
                self.decide(process, controller.on_timeout, protocol.BY_TIMEOUT)
                self.show_change(process)
                return not process.woken
        if process.state == protocol.STATE_HELD and not process.image_seen and not process.fetched:
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
        """The time until the worker asks again, when nothing is due now."""
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
        if self.is_asked(process):
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
        """INFO without its size, its version and its features."""
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
