"""The core and its Python model, driven by the same steps: all observable state stays equal.

Random sequences of notifications, requests, clock steps, allocation failures, and controllers that die at any moment.
``PROCMON_LONG=1`` runs more. Hypothesis prints the shortest sequence that shows a difference.
"""

import os

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from core.harness import (
    BUFFER_TOO_SMALL,
    CRITICAL,
    DIED,
    FAILED,
    INFO_LENGTH_MISMATCH,
    SUCCESS,
    Caller,
    Core,
    Held,
)
from core.model import Model
from core.model_state import Process, Registration
from procmon.driver import protocol
from procmon.records import Verdict

LONG = os.environ.get("PROCMON_LONG") == "1"
SHRINK = os.environ.get("PROCMON_SHRINK") != "0"  # breaks.py needs only the fact of a difference

CONTROLLER_PIDS = (1000, 2000)
pids = st.sampled_from([44, 48, 52, 56, *CONTROLLER_PIDS])
names = st.sampled_from(
    [
        "",
        "\\Device\\HarddiskVolume2\\Tools\\A.exe",
        "\\Device\\HarddiskVolume2\\Tools\\B.exe",
        "\\Device\\HarddiskVolume1\\A.exe",
        "\\Device\\HarddiskVolume11\\A.exe",
        "\\Device\\Mup\\Server\\Share\\A.exe",
        "\\Device\\Mup\\;LanmanRedirector\\;Z:03e7\\Server\\Share\\A.exe",
        "\\Device\\Mup\\;nothing behind it",
        "\\SystemRoot\\System32\\csrss.exe",
        "\\Device\\HarddiskVolume2\\Windows\\System32\\WerFault.exe",
        "\\Device\\HarddiskVolume2\\Windows\\SysWOW64\\WerFault.exe",
        "\\Device\\HarddiskVolume2\\Windows\\System32\\services.exe",
        "\\Device\\HarddiskVolume2\\Windows\\System32\\svchost.exe",
    ]
)
ordinary_names = st.sampled_from(["", "\\Device\\HarddiskVolume2\\Tools\\B.exe", "\\Device\\Mup\\Server\\Share\\A.exe"])
rule_paths = st.sampled_from(
    ["c:\\tools\\a.exe", "c:\\tools\\b.exe", "\\device\\harddiskvolume2\\tools\\a.exe", "d:\\a.exe"]
)
verdicts = st.sampled_from([Verdict.ALLOW, Verdict.BLOCK])
rooms = st.sampled_from([16, 100, 220, 300, 500, 1 << 16])
mostly = st.sampled_from([True, True, True, True, True, True, False])
seldom = st.sampled_from([False, False, False, False, True])
CODES = {Verdict.ALLOW: protocol.VERDICT_ALLOW, Verdict.BLOCK: protocol.VERDICT_BLOCK}


class CoreAndModel(RuleBasedStateMachine):
    """Steps of the system, of held threads, of the worker and of controllers."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core()
        self.model = Model()
        self.holds: list[tuple[Held, Process]] = []
        self.identities: list[tuple[int, int]] = [(44, 1)]
        self.callers: list[Caller] = []
        self.shown = self.set = 0
        self.reader = self.core.opened()

    @initialize(
        registered=mostly, timeout_ms=st.sampled_from([100, 100, 0]), flags=st.sampled_from([0, 2]), verdict=verdicts
    )
    def open_two(self, registered: bool, timeout_ms: int, flags: int, verdict: Verdict) -> None:
        """Most sequences begin with a controller."""
        self.callers = [self.core.opened(pid) for pid in CONTROLLER_PIDS]
        if registered:
            self.register(0, flags, timeout_ms, verdict, verdict)

    # -- notifications

    @rule(
        pid=pids, parent_pid=pids, creator_pid=pids, created=st.sampled_from([0, 7]), native_name=names,
        command_line=st.sampled_from(["", "a b", "x" * 4096, "x" * 4097]),
        file_flags=st.sampled_from([0, 0, protocol.FLAG_WRITE_OPEN]), running=seldom, refusable=mostly, pico=seldom,
        memory=mostly,
    )  # fmt: skip
    def create(
        self, pid: int, parent_pid: int, creator_pid: int, created: int, native_name: str, command_line: str,
        file_flags: int, running: bool, refusable: bool, pico: bool, memory: bool,
    ) -> None:  # fmt: skip
        fields = {
            "parent_pid": parent_pid, "creator_pid": creator_pid, "creator_tid": 9, "native_name": native_name,
            "command_line": command_line, "file_flags": file_flags, "running": running, "refusable": refusable,
            "pico": pico and not running, "created": 0 if running else created,
        }  # fmt: skip
        self.core.fail_allocation(0 if memory else 1, forever=True)
        refused = self.core.create(pid, **fields)  # type: ignore[arg-type]
        self.core.fail_allocation(0)
        assert refused == self.model.create(pid, memory=memory, **fields)  # type: ignore[arg-type]
        if (process := self.model.alive.get(pid)) is not None:
            self.identities.append((pid, process.key))

    @rule(
        pid=pids, native_name=names, mapped_name=st.one_of(st.just(""), names), protected=seldom, dying=seldom,
        own=st.booleans(), memory=mostly,
    )  # fmt: skip
    def image(
        self, pid: int, native_name: str, mapped_name: str, protected: bool, dying: bool, own: bool, memory: bool
    ) -> None:
        fields = {"mapped_name": mapped_name, "protected": protected, "dying": dying, "own": own}
        self.core.fail_allocation(0 if memory else 1, forever=True)
        held = self.core.image(pid, native_name, **fields)  # type: ignore[arg-type]
        self.core.fail_allocation(0)
        process = self.model.image(pid, native_name, memory=memory, **fields)  # type: ignore[arg-type]
        self.begin(held, process)

    def begin(self, held: Held | None, process: Process | None) -> None:
        assert (held is None) == (process is None)
        if held and process:
            self.holds.append((held, process))

    @rule(pid=pids, protected=seldom, dying=seldom)
    def own_thread(self, pid: int, protected: bool, dying: bool) -> None:
        held = self.core.own_thread(pid, protected=protected, dying=dying)
        self.begin(held, self.model.own_thread(pid, protected=protected, dying=dying))

    @precondition(lambda self: self.model.held())
    @rule(data=st.data(), image=st.booleans())
    def one_more_thread(self, data: st.DataObject, image: bool) -> None:
        """Another thread of a held process arrives."""
        pid = data.draw(st.sampled_from(self.model.held())).pid
        if image:
            self.image(pid, "", "", False, False, True, True)
        else:
            self.own_thread(pid, False, False)

    @rule(pid=st.sampled_from([44, 48]), name=ordinary_names)
    def start_with_an_extra_thread(self, pid: int, name: str) -> None:
        """Its creator creates a second thread in it before the first runs."""
        self.create(pid, 44, 44, 0, "", "", 0, False, False, False, True)
        self.any_thread(pid)
        self.any_thread(pid)
        self.image(pid, name, "", False, False, True, True)

    @precondition(lambda self: self.model.controller)
    @rule(on_tamper=verdicts)
    def start_with_an_extra_thread_where_a_rule_allows(self, on_tamper: Verdict) -> None:
        self.register(self.controller_index(), 0, 100, Verdict.ALLOW, Verdict.ALLOW, on_tamper)
        self.set_rules(self.controller_index(), [("c:\\tools\\b.exe", Verdict.ALLOW)])
        self.start_with_an_extra_thread(44, "\\Device\\HarddiskVolume2\\Tools\\B.exe")

    @rule(pid=pids)
    def any_thread(self, pid: int) -> None:
        self.core.any_thread(pid)
        self.model.any_thread(pid)

    @rule(pid=st.sampled_from([44, 48, 52, 56]), name=ordinary_names, fetched=st.booleans())
    def start(self, pid: int, name: str, fetched: bool) -> None:
        """The usual sequence: creation, image, and perhaps a fetch."""
        self.create(pid, 44, 44, 0, "", "", 0, False, False, False, True)
        self.image(pid, name, "", False, False, True, True)
        if fetched and self.model.controller:
            self.fetch_all()

    @rule(pid=st.sampled_from([44, 48]), name=ordinary_names)
    def resume_what_was_listed(self, pid: int, name: str) -> None:
        """It was suspended when the processes that run were listed."""
        self.exit(pid, 0)
        self.create(pid, 44, 0, 0, name, "", 0, True, False, False, True)
        self.image(pid, name, "", False, False, True, True)

    @rule(pid=st.sampled_from([44, 48]), name=st.one_of(st.just(""), names), mapped_name=names)
    def start_renamed(self, pid: int, name: str, mapped_name: str) -> None:
        """Its file is renamed between its creation, which may have no name, and its image."""
        self.create(pid, 44, 44, 0, name, "", 0, False, False, False, True)
        self.image(pid, "\\Device\\HarddiskVolume2\\Tools\\A.exe", mapped_name, False, False, True, True)

    @precondition(lambda self: self.model.controller)
    @rule(pid=st.sampled_from([44, 48]), mapped_name=st.one_of(st.just(""), names), late=st.booleans())
    def start_while_an_extra_thread_comes_first(self, pid: int, mapped_name: str, late: bool) -> None:
        """Its image notification is under way in its first thread."""
        name = "\\Device\\HarddiskVolume2\\Tools\\A.exe"
        self.register(self.controller_index(), 0, 0, Verdict.ALLOW, Verdict.ALLOW)
        self.create(pid, 44, 44, 0, name, "", 0, False, False, False, True)
        self.own_thread(pid, False, False)
        if late:
            self.time_passes(1000)
            for held, process in self.holds:
                assert held.waits() == self.model.look(process)
            self.fetch_all()
        self.image(pid, name, mapped_name, False, False, True, True)

    @rule(pid=st.sampled_from([44, 48]), letter=st.sampled_from("CE"))
    def start_while_the_letters_change(self, pid: int, letter: str) -> None:
        name = "\\Device\\HarddiskVolume2\\Tools\\A.exe"
        self.create(pid, 44, 44, 0, name, "", 0, False, False, False, True)
        self.volumes({"\\Device\\HarddiskVolume2": letter})
        self.image(pid, name, "", False, False, True, True)

    @precondition(lambda self: self.model.controller)
    @rule(claimed=st.booleans())
    def start_by_the_controller_or_below_it(self, claimed: bool) -> None:
        """The parent is the controller, or the creator is."""
        assert self.model.controller
        pid = self.model.controller.pid
        for running in (48, pid):
            self.create(running, 0, 0, 0, "", "", 0, True, False, False, True)
        parent_pid, creator_pid = (pid, 48) if claimed else (48, pid)
        self.create(44, parent_pid, creator_pid, 0, "", "", 0, False, False, False, True)

    @precondition(lambda self: self.model.controller)
    @rule()
    def start_below_a_creator_whose_pid_is_used_again(self) -> None:
        """By the controller this time."""
        assert self.model.controller
        pid = self.model.controller.pid
        self.create(pid, 0, 0, 0, "", "", 0, True, False, False, True)
        for child, creator_pid in ((52, 56), (56, pid), (44, 52)):
            self.create(child, creator_pid, creator_pid, 0, "", "", 0, False, False, False, True)

    @rule(runs_already=st.booleans())
    def start_programs_of_windows(self, runs_already: bool) -> None:
        """Below services.exe, which was running before, or a program of that name in another folder."""
        folder = "\\Device\\HarddiskVolume2\\Windows\\System32\\"
        first = folder + "services.exe" if runs_already else "\\Device\\HarddiskVolume2\\Tools\\services.exe"
        self.exit(56, 0)
        self.create(56, 4, 0, 0, first, "", 0, runs_already, False, False, True)
        chain = ((48, 56, folder + "svchost.exe"), (44, 48, folder + "WerFault.exe"))
        for pid, creator_pid, name in chain:
            self.create(pid, creator_pid, creator_pid, 0, name, "", 0, False, False, False, True)
        for pid, _, name in chain:
            self.image(pid, name, "", False, False, True, True)

    @precondition(lambda self: self.model.controller)
    @rule(verdict=verdicts)
    def start_of_a_subsystem(self, verdict: Verdict) -> None:
        """A WSL 1 process, which the controller wants to be refused or not."""
        self.register(self.controller_index(), 0, 100, verdict, verdict, on_pico=verdict)
        self.create(44, 48, 48, 0, "", "", 0, False, True, True, True)

    @rule(pid=pids, status=st.sampled_from([0, 7, protocol.STATUS_BLOCKED]))
    def exit(self, pid: int, status: int) -> None:
        self.core.exit(pid, status)
        self.model.exit(pid, status)

    @rule(milliseconds=st.sampled_from([1, 99, 1000]))
    def time_passes(self, milliseconds: int) -> None:
        self.core.advance(milliseconds)
        self.model.now += milliseconds

    @precondition(lambda self: self.model.controller and self.model.controller.timeout_ms and self.model.held())
    @rule(data=st.data(), early=st.integers(0, 1))
    def the_time_comes(self, data: st.DataObject, early: int) -> None:
        """The clock moves to the end of a hold, or one tick before it, and the thread checks."""
        assert self.model.controller
        waiting = [(held, p) for held, p in self.holds if p.state == protocol.STATE_HELD]
        held, process = data.draw(st.sampled_from(waiting))
        left = process.held_since + self.model.controller.timeout_ms - self.model.now - early
        if left > 0:
            self.time_passes(left)
        assert held.waits() == self.model.look(process)

    @rule(drives=st.sampled_from([{}, {"\\Device\\HarddiskVolume2": "C"}, {"\\Device\\HarddiskVolume1": "D"}]))
    def volumes(self, drives: dict[str, str]) -> None:
        assert self.core.set_volumes(drives) == SUCCESS
        self.model.volumes = drives
        self.model.map += 1

    # -- held threads and the worker

    @precondition(lambda self: self.model.in_worker)
    @rule(data=st.data())
    def exit_in_the_workers_hand(self, data: st.DataObject) -> None:
        self.exit(data.draw(st.sampled_from(self.model.in_worker)).pid, 7)

    @precondition(lambda self: self.holds)
    @rule(data=st.data(), dying=seldom)
    def look(self, data: st.DataObject, dying: bool) -> None:
        held, process = pair = data.draw(st.sampled_from(self.holds))
        waits = held.waits(dying=dying)
        assert waits == self.model.look(process, dying)
        if not waits and not process.woken:
            self.go_alone(pair)

    @precondition(lambda self: any(process.state == protocol.STATE_HELD for _, process in self.holds))
    @rule(data=st.data())
    def a_held_process_is_ended(self, data: st.DataObject) -> None:
        """Another process ends it: its threads look one after the other."""
        of = data.draw(st.sampled_from(self.model.held()))
        for pair in [pair for pair in self.holds if pair[1] is of]:
            waits = pair[0].waits(dying=True)
            assert waits == self.model.look(of, dying=True)
            if not waits:
                self.go_alone(pair)

    def go_alone(self, pair: tuple[Held, Process]) -> None:
        self.holds.remove(pair)
        held, process = pair
        assert held.end() == self.model.leave(process, alone=True)

    @precondition(lambda self: any(process.threads > 1 for _, process in self.holds))
    @rule(data=st.data())
    def threads_are_ended_at_once(self, data: st.DataObject) -> None:
        """All threads of a held process check before one of them has left."""
        of = data.draw(st.sampled_from([process for _, process in self.holds if process.threads > 1]))
        pairs = [pair for pair in self.holds if pair[1] is of]
        woken = of.woken
        going = []
        for pair in pairs:
            waits = pair[0].waits(dying=True)
            assert waits == self.model.look(of, dying=True)
            if not waits and not woken:
                going.append(pair)
        for pair in going:
            self.go_alone(pair)

    @precondition(lambda self: any(process.woken for _, process in self.holds))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from([pair for pair in self.holds if pair[1].woken]))
        self.holds.remove(pair)
        held, process = pair
        assert not held.waits()
        assert held.end() == self.model.leave(process)

    @rule()
    def work(self) -> None:
        process = self.model.next_to_terminate()
        found, wait_ms = self.core.ask_worker()
        assert found == (process and (process.pid, process.key))
        if not process:
            assert wait_ms == self.model.worker_waits_ms()

    @precondition(lambda self: self.model.in_worker)
    @rule(data=st.data(), outcome=st.sampled_from([DIED, DIED, DIED, FAILED, CRITICAL]))
    def terminated(self, data: st.DataObject, outcome: int) -> None:
        process = data.draw(st.sampled_from(self.model.in_worker))
        self.core.terminated((process.pid, process.key), outcome)
        self.model.terminated(process, outcome)

    @precondition(lambda self: self.model.to_terminate)
    @rule(outcome=st.sampled_from([DIED, FAILED, FAILED]))
    def try_for_long(self, outcome: int) -> None:
        """The worker tries until it retries only every second."""
        for _ in range(21):
            if (process := self.model.next_to_terminate()) is None:
                break
            assert self.core.next_to_terminate() == (process.pid, process.key)
            self.core.terminated((process.pid, process.key), outcome)
            self.model.terminated(process, outcome)
            self.time_passes(50)

    # -- controllers

    @rule(
        who=st.integers(0, 1), flags=st.sampled_from([0, 1, 2, 3]), timeout_ms=st.sampled_from([0, 100, 1000]),
        on_timeout=verdicts, on_disconnect=verdicts, on_tamper=verdicts, on_pico=verdicts,
    )  # fmt: skip
    def register(
        self, who: int, flags: int, timeout_ms: int, on_timeout: Verdict, on_disconnect: Verdict,
        on_tamper: Verdict = Verdict.BLOCK, on_pico: Verdict = Verdict.ALLOW,
    ) -> None:  # fmt: skip
        caller = self.callers[who]
        caller.event = caller.event or self.core.event()
        status = caller.register(
            event=caller.event, flags=flags, hold_timeout_ms=timeout_ms, on_timeout=on_timeout,
            on_disconnect=on_disconnect, on_tamper=on_tamper, on_pico=on_pico,
        )  # fmt: skip
        new = Registration(
            caller.owner, caller.pid, flags, timeout_ms, CODES[on_timeout], CODES[on_disconnect],
            protocol.VERDICT_ALLOW, CODES[on_tamper], CODES[on_pico],
        )  # fmt: skip
        assert status == self.model.register(new)

    @precondition(lambda self: not self.model.controller and not self.model.stopped)
    @rule(verdict=verdicts)
    def a_controller_comes(self, verdict: Verdict) -> None:
        """Usually a controller is registered."""
        self.register(0, protocol.REPORT_EXITS, 100, verdict, verdict)

    @rule(who=st.sampled_from([1, 1, 1, 0]))
    def close(self, who: int) -> None:
        """A handle is closed and a new one opened, usually that of the second caller, rarely the controller."""
        caller = self.callers[who]
        caller.close()
        self.model.close(caller.owner)
        self.callers[who] = self.core.opened(caller.pid)
        self.callers[who].event = caller.event

    @rule(who=st.integers(0, 1), room=rooms)
    def fetch(self, who: int, room: int) -> None:
        caller = self.callers[who]
        expected = self.model.may(caller.owner)
        status, reply = caller.request(protocol.FETCH, room=room)
        assert status == expected
        if status == SUCCESS:
            assert protocol.decode_records(reply) == self.model.fetch(room)

    @precondition(lambda self: self.model.controller)
    @rule()
    def fetch_all(self) -> None:
        """The usual case: the registered controller fetches all records."""
        assert self.model.controller
        self.fetch(self.controller_index(), 1 << 16)

    @precondition(lambda self: self.model.controller and self.model.asked())
    @rule(verdict=verdicts, data=st.data())
    def answer_one(self, verdict: Verdict, data: st.DataObject) -> None:
        """The usual case: the controller answers one held process."""
        process = data.draw(st.sampled_from(self.model.asked()))
        code = protocol.ALLOW if verdict is Verdict.ALLOW else protocol.BLOCK
        caller = self.callers[self.controller_index()]
        assert caller.answer(code, [(process.pid, process.key)]) == [protocol.RESULT_DONE]
        assert self.model.answer(process.pid, process.key, CODES[verdict]) == protocol.RESULT_DONE

    @precondition(lambda self: self.model.controller and self.model.controller.timeout_ms and self.model.held())
    @rule()
    def all_wait_in_vain(self) -> None:
        """The controller fetches all held processes and does not answer."""
        assert self.model.controller
        self.fetch_all()
        self.time_passes(self.model.controller.timeout_ms)
        for held, process in self.holds:
            assert held.waits() == self.model.look(process)

    @precondition(lambda self: self.model.controller and self.model.asked())
    @rule(data=st.data())
    def block_one_and_take_it(self, data: st.DataObject) -> None:
        """The controller blocks one process, and the worker takes the next one."""
        self.answer_one(Verdict.BLOCK, data)
        self.work()

    def controller_index(self) -> int:
        assert self.model.controller
        return [caller.owner for caller in self.callers].index(self.model.controller.owner)

    @rule(data=st.data(), room=rooms)
    def page(self, data: st.DataObject, room: int) -> None:
        after = data.draw(st.sampled_from([0, *(key for _, key in self.identities)]))
        status, reply = self.reader.request(protocol.LIST, protocol.encode_list(after), room)
        if not self.model.stopped:
            assert status == SUCCESS and protocol.decode_records(reply) == self.model.listing(after, room)

    @rule(who=st.integers(0, 1), verdict=verdicts, data=st.data())
    def answer(self, who: int, verdict: Verdict, data: st.DataObject) -> None:
        held = [(process.pid, process.key) for process in self.model.held()]
        targets = data.draw(st.lists(st.sampled_from(held * 3 + self.identities), min_size=1, max_size=4))
        caller = self.callers[who]
        code = protocol.ALLOW if verdict is Verdict.ALLOW else protocol.BLOCK
        expected = self.model.may(caller.owner)
        status, reply = caller.request(code, protocol.encode_targets(targets), 4 * len(targets))
        assert status == expected
        if status == SUCCESS:
            results = [self.model.answer(pid, key, CODES[verdict]) for pid, key in targets]
            assert list(memoryview(reply).cast("I")) == results

    @rule(who=st.integers(0, 1), rules=st.lists(st.tuples(rule_paths, verdicts), max_size=3))
    def set_rules(self, who: int, rules: list[tuple[str, Verdict]]) -> None:
        caller = self.callers[who]
        expected = self.model.may(caller.owner)
        assert caller.set_rules(*rules) == expected
        if expected == SUCCESS and self.model.controller:
            self.model.controller.rules = [(path, CODES[verdict]) for path, verdict in rules]

    @rule(who=st.integers(0, 3))
    def reset(self, who: int) -> None:
        caller = self.callers[min(who, 1)]  # usually the second, which is rarely the controller
        expected = self.model.may(caller.owner)
        assert caller.request(protocol.RESET)[0] == expected
        if expected == SUCCESS:
            self.model.reset()

    @rule(
        who=st.integers(0, 1), function=st.sampled_from([*range(0x800, 0x809), 0x900, 0xFFF]), method=st.integers(0, 3),
        data=st.binary(max_size=40), room=st.integers(0, 300),
    )  # fmt: skip
    def noise(self, who: int, function: int, method: int, data: bytes, room: int) -> None:
        """Refused requests change nothing; requests that only read change nothing either."""
        code = protocol.request_code(function, protocol.ACCESS_WRITE) | method
        assert self.callers[who].request(code, data, room)[0] != SUCCESS
        assert self.reader.request(protocol.LIST, data[:7], room)[0] in (INFO_LENGTH_MISMATCH, *self.stopped_status())
        too_small = min(room, protocol.INFO_REPLY.size - 1)
        assert self.reader.request(protocol.INFO, data, too_small)[0] in (BUFFER_TOO_SMALL, *self.stopped_status())
        assert self.reader.request(protocol.ALLOW, data, room)[0] == self.model.may(0)

    def stopped_status(self) -> list[int]:
        return [self.model.may(0)] if self.model.stopped else []

    @precondition(lambda self: len(self.model.processes) > 3)
    @rule(really=seldom, indeed=seldom)
    def stop(self, really: bool, indeed: bool) -> None:
        if really and indeed:
            self.core.stop()
            self.model.stop()

    @precondition(lambda self: len(self.model.processes) > 3)
    @rule(really=seldom, indeed=seldom, by_request=st.booleans())
    def quiesce(self, really: bool, indeed: bool, by_request: bool) -> None:
        if not (really and indeed) or self.model.stopped:
            return
        if by_request:
            assert self.reader.request(protocol.QUIESCE)[0] == SUCCESS
        else:
            self.core.quiesce()
        self.model.quiesce()
        self.register(0, 0, 0, Verdict.ALLOW, Verdict.ALLOW)  # refused from now on

    # -- what must be the same

    @invariant()
    def everything_that_can_be_seen(self) -> None:
        model = self.model
        for held, process in self.holds:
            assert held.signaled == process.woken, process
        assert self.core.holds_in_flight == len(self.holds)
        assert self.core.breaches == 0
        if model.stopped:
            return
        info = self.reader.info()
        expected = model.info()
        assert {name: info[name] for name in expected} == expected
        assert info["memory_bytes"] == self.core.live_bytes
        assert self.reader.listing() == model.listing(0, 1 << 20)

    @invariant()
    def no_wake_up_is_lost(self) -> None:
        wakes = sum(caller.wake_ups() for caller in self.callers if caller.event)
        if self.model.shown > self.shown:
            assert wakes > self.set, "there is something new to fetch, and the event was not set"
        self.shown, self.set = self.model.shown, wakes

    def teardown(self) -> None:
        for process in list(self.model.in_worker):
            self.core.terminated((process.pid, process.key))
        self.core.close()


TestCoreAndModel = CoreAndModel.TestCase
TestCoreAndModel.settings = settings(
    max_examples=3000 if LONG else 200,
    stateful_step_count=60,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.reuse, Phase.generate, Phase.shrink] if SHRINK else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
