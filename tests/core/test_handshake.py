"""The thirteen points of docs/design.md, "The handshake", as far as they are the core's: one class for each point."""

import threading
from collections.abc import Iterator

import pytest
from core.harness import (
    ACCESS_DENIED,
    BUFFER_TOO_SMALL,
    DEVICE_NOT_READY,
    INFO_LENGTH_MISMATCH,
    INVALID_DEVICE_REQUEST,
    INVALID_DEVICE_STATE,
    INVALID_HANDLE,
    INVALID_PARAMETER,
    OBJECT_TYPE_MISMATCH,
    REVISION_MISMATCH,
    SHARING_VIOLATION,
    START_FILETIME,
    SUCCESS,
    Core,
)
from procmon import wire
from procmon.records import Verdict

TOOL = "\\Device\\HarddiskVolume2\\Tools\\A.exe"
SYSTEM32 = "\\Device\\HarddiskVolume2\\Windows\\System32\\"


@pytest.fixture
def core() -> Iterator[Core]:
    with Core() as core:
        yield core


class Test01Loading:
    def test_a_start_without_memory_leaves_nothing_behind(self) -> None:
        for n in (1, 2):
            core = Core(start=False)
            core.fail_allocation(n)
            assert core.start() != SUCCESS
            core.close()

    def test_before_its_start_a_gate_holds_nothing_and_refuses_requests(self) -> None:
        core = Core(start=False)
        assert not core.create(44)
        assert core.image(44, TOOL) is None
        core.exit(44)
        assert core.next_condemned() is None
        assert core.opened().request(wire.INFO, room=400) == (DEVICE_NOT_READY, b"")
        core.close()

    def test_start_keys_ascend_from_the_time_of_the_load_so_that_two_loads_never_share_one(self, core: Core) -> None:
        for pid in (8, 12, 16):
            core.create(pid)
        keys = [record.start_key for record in core.opened().listing().records]
        assert keys == [START_FILETIME + n for n in (1, 2, 3)]

    def test_processes_of_the_initial_list_are_marked_and_never_held(self, core: Core) -> None:
        core.create(44, running=True, native_name=TOOL, created=5)
        controller = core.controller()
        assert core.image(44, "\\Device\\HarddiskVolume2\\later.dll") is None
        [record] = controller.fetch().records
        assert (record.state, record.flags, record.created) == (wire.STATE_NAMED, wire.FLAG_RUNNING_BEFORE, 5)
        assert (record.verdict, record.decided_by) == (wire.VERDICT_NONE, wire.BY_NONE)

    def test_a_process_that_starts_while_the_list_is_made_is_not_taken_for_an_old_one(self, core: Core) -> None:
        controller = core.controller()
        core.create(44)
        core.create(44, running=True)
        assert core.image(44, TOOL) is not None
        assert controller.info()["pid_reused"] == 0


class Test02Register:
    def test_the_event_is_set_at_once_when_there_is_something_to_fetch(self, core: Core) -> None:
        assert core.controller().wake_ups() == 0
        core.create(44, running=True)
        core.opened()
        with Core() as other:
            other.create(44, running=True, native_name=TOOL)
            assert other.controller().wake_ups() == 1

    def test_a_new_event_of_the_same_controller_is_set_when_a_process_is_held_already(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.fetch()
        assert controller.register() == SUCCESS
        assert controller.wake_ups() == 1
        assert held.waits()

    def test_a_second_controller_hears_that_there_is_one(self, core: Core) -> None:
        controller = core.controller()
        assert core.opened(2000).register() == SHARING_VIOLATION
        controller.close()
        assert core.opened(2000).register() == SUCCESS

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ({"version": 2 << 16}, REVISION_MISMATCH),
            ({"version": 1 << 16 | 99}, SUCCESS),
            ({"flags": 4}, INVALID_PARAMETER),
            ({"event": 4711}, INVALID_HANDLE),
        ],
    )
    def test_options_are_checked(self, core: Core, options: dict[str, int], status: int) -> None:
        assert core.opened().register(**options) == status

    def test_what_is_no_event_is_refused(self, core: Core) -> None:
        assert core.opened().register(event=core.event(is_event=False)) == OBJECT_TYPE_MISMATCH

    @pytest.mark.parametrize("offset", [wire.REGISTER_REQUEST.offsets[n] for n in ("timeout_verdict", "disconnect_verdict")])
    @pytest.mark.parametrize("verdict", [0, 3])
    def test_a_verdict_that_is_none_is_refused(self, core: Core, offset: int, verdict: int) -> None:
        data = bytearray(wire.encode_register(core.event()))
        data[offset] = verdict
        assert core.opened().request(wire.REGISTER, bytes(data))[0] == INVALID_PARAMETER

    def test_running_processes_are_shown_to_each_new_controller_once(self, core: Core) -> None:
        first = core.controller()
        held = core.held(44)
        first.allow(*first.fetch().records)
        held.verdict()
        first.close()
        [record] = (second := core.controller(2000)).fetch().records
        assert record.pid == 44 and record.flags & (wire.FLAG_RUNNING_BEFORE | wire.FLAG_SEEN) == wire.FLAG_RUNNING_BEFORE
        assert second.fetch().records == ()


class Test03Creation:
    def test_a_creation_is_recorded_with_all_that_is_known(self, core: Core) -> None:
        core.create(44, parent_pid=7, creator_pid=8, creator_tid=9, created=10, command_line="a b", native_name=TOOL)
        [record] = core.opened().listing().records
        expected = wire.Record(
            pid=44, start_key=START_FILETIME + 1, created=10, parent_pid=7, creator_pid=8, creator_tid=9,
            image_name="c:\\tools\\a.exe", native_name=TOOL, command_line="a b",
        )  # fmt: skip
        assert record == expected

    def test_a_creation_without_a_time_gets_the_ports(self, core: Core) -> None:
        core.create(44)
        assert core.opened().records()[44].created == START_FILETIME

    def test_a_long_command_line_is_cut_and_flagged(self, core: Core) -> None:
        core.create(44, command_line="x" * 5000)
        core.create(48, command_line="x" * 4096)
        records = core.opened().records()
        assert records[44].command_line == "x" * 4096 and records[44].flags == wire.FLAG_COMMAND_LINE_TRUNCATED
        assert records[48].command_line == "x" * 4096 and records[48].flags == 0

    def test_a_process_is_not_shown_before_its_image(self, core: Core) -> None:
        controller = core.controller()
        core.create(44)
        assert controller.fetch().records == () and controller.wake_ups() == 0
        core.exit(44)
        assert controller.fetch().records == ()


class Test04Image:
    def test_the_first_image_is_held_and_named_and_wakes_the_controller(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        assert controller.wake_ups() == 1 and held.waits()
        [record] = controller.fetch().records
        assert (record.state, record.image_name, record.native_name) == (wire.STATE_HELD, "c:\\tools\\a.exe", TOOL)

    def test_later_images_pass(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        assert core.image(44, SYSTEM32 + "ntdll.dll") is None
        controller.allow(*controller.fetch().records)
        assert held.verdict() == wire.VERDICT_ALLOW
        assert core.image(44, SYSTEM32 + "kernel32.dll") is None
        assert controller.records()[44].native_name == TOOL

    @pytest.mark.parametrize("pid", [0, 4])
    def test_images_of_the_kernel_pass_uncounted(self, core: Core, pid: int) -> None:
        controller = core.controller()
        assert core.image(pid, SYSTEM32 + "drivers\\a.sys") is None
        assert controller.info()["image_without_create"] == 0

    def test_nobody_is_asked_when_there_is_nobody(self, core: Core) -> None:
        core.create(44)
        assert core.image(44, TOOL) is None
        record = core.opened().records()[44]
        assert (record.verdict, record.decided_by) == (wire.VERDICT_ALLOW, wire.BY_NOBODY)

    @pytest.mark.parametrize(
        ("native", "dos"),
        [
            ("\\Device\\HarddiskVolume1\\A.EXE", "d:\\a.exe"),
            ("\\device\\harddiskvolume2\\\u00c4\u0416.EXE", "c:\\\u00e4\u0436.exe"),
            ("\\Device\\Mup\\Server\\Share\\A.exe", "\\\\server\\share\\a.exe"),
            ("\\??\\E:\\A.exe", "e:\\a.exe"),
            ("\\SystemRoot\\System32\\smss.exe", "c:\\windows\\system32\\smss.exe"),
        ],
    )
    def test_native_names_become_dos_paths(self, core: Core, native: str, dos: str) -> None:
        core.create(44, native_name=native)
        record = core.opened().records()[44]
        assert (record.image_name, record.native_name, record.flags & wire.FLAG_NAME_NATIVE) == (dos, native, 0)

    @pytest.mark.parametrize(
        "native",
        ["\\Device\\HarddiskVolume11\\A.exe", "\\Device\\HarddiskVolume1", "\\??\\UNC\\s\\A.exe", "\\??\\E:A", "A.exe", "\\??"],
    )
    def test_a_name_without_a_drive_letter_stays_native_and_is_flagged(self, core: Core, native: str) -> None:
        core.create(44, native_name=native)
        record = core.opened().records()[44]
        assert (record.image_name, record.native_name) == (native.lower(), native)
        assert record.flags & wire.FLAG_NAME_NATIVE

    def test_a_new_volume_map_replaces_the_old_one_at_once(self, core: Core) -> None:
        core.dll.gate_volumes_begin(core.host)
        core.create(44, native_name=TOOL)
        core.set_volumes({"\\Device\\HarddiskVolume2": "X"})
        core.create(48, native_name=TOOL)
        records = core.opened().records()
        assert (records[44].image_name, records[48].image_name) == ("c:\\tools\\a.exe", "x:\\tools\\a.exe")


class Test05Fetch:
    def test_each_record_is_given_once_and_marked(self, core: Core) -> None:
        controller = core.controller()
        core.held(44)
        assert [r.flags & wire.FLAG_SEEN for r in controller.fetch().records] == [0]
        assert controller.fetch().records == ()
        assert controller.records()[44].flags & wire.FLAG_SEEN

    def test_a_small_buffer_loses_nothing(self, core: Core) -> None:
        controller = core.controller()
        for pid in range(4, 104, 4):
            core.held(pid + 1, TOOL + "x" * pid)
        expected = [r.pid for r in controller.listing().records]
        got: list[int] = []
        room = wire.RECORDS_HEADER.size
        while reply := controller.fetch(room):
            got += [record.pid for record in reply.records]
            if not reply.needed_bytes:
                break
            if not reply.records:
                room = wire.RECORDS_HEADER.size + reply.needed_bytes
        assert got == expected

    def test_list_pages_through_all_and_marks_nothing(self, core: Core) -> None:
        core.controller()
        for pid in range(8, 1008, 4):
            core.create(pid, native_name=TOOL)
        reader = core.opened(access=wire.ACCESS_READ)
        got, after, pages = [], 0, 0
        while pages == 0 or after:
            page = reader.listing(after, room=1000)
            got += [record.pid for record in page.records]
            after, pages = page.next_key, pages + 1
            core.exit(got[-1])  # where the paging stopped
        assert got == list(range(8, 1008, 4)) and pages == 50

    def test_exits_are_given_once_more_if_asked_for(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.allow(*controller.fetch().records)
        held.verdict()
        core.exit(44, 7)
        [record] = controller.fetch().records
        assert (record.state, record.exit_status) == (wire.STATE_EXITING, 7)
        assert record.flags & wire.FLAG_SEEN
        assert controller.fetch().records == () and controller.records() == {}

    def test_exits_are_not_given_unasked_but_an_unseen_process_is(self, core: Core) -> None:
        controller = core.controller(flags=0)
        core.set_volumes({})
        assert controller.set_rules((TOOL, Verdict.ALLOW)) == SUCCESS
        for pid in (44, 48):
            core.create(pid)
            assert core.image(pid, TOOL) is None
            if pid == 44:
                controller.fetch()
            core.exit(pid, 3)
        [record] = controller.fetch().records
        assert (record.pid, record.state, record.flags & wire.FLAG_SEEN) == (48, wire.STATE_EXITING, 0)


class Test06Verdicts:
    def test_each_target_is_answered_on_its_own(self, core: Core) -> None:
        controller = core.controller()
        core.held(44), core.held(48)
        core.create(52)
        a, b = controller.fetch().records
        new = controller.records()[52]
        assert controller.allow(a, (4711, 1), (b.pid, b.start_key + 9), a, new, b) == [
            wire.RESULT_DONE, wire.RESULT_UNKNOWN, wire.RESULT_STALE, wire.RESULT_ANSWERED, wire.RESULT_NOT_HELD,
            wire.RESULT_DONE,
        ]  # fmt: skip
        info = controller.info()
        assert (info["allowed"], info["unknown_verdicts"], info["stale_verdicts"], info["late_verdicts"]) == (2, 1, 1, 2)

    def test_a_blocked_process_waits_until_it_has_been_terminated(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        assert held.waits() and not held.signaled
        condemned = core.next_condemned()
        assert condemned and condemned[0] == 44 and core.next_condemned() is None
        assert held.waits()
        core.terminated(condemned)
        assert held.verdict() == wire.VERDICT_BLOCK

    def test_one_that_will_not_die_is_tried_again_and_then_given_up(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        for _ in range(20):
            assert held.waits()
            condemned = core.next_condemned()
            assert condemned
            core.terminated(condemned, died=False)
        assert core.next_condemned() is None and held.verdict() == wire.VERDICT_BLOCK
        assert controller.info()["terminate_failures"] == 20

    def test_the_pid_stays_with_its_thread_while_the_worker_has_it_in_hand(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        condemned = core.next_condemned()
        assert condemned
        core.exit(44)
        assert held.waits(), "the thread left while its pid could still be terminated"
        core.terminated(condemned)
        assert held.verdict() == wire.VERDICT_BLOCK

    def test_one_that_has_gone_by_itself_is_not_terminated(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        core.exit(44)
        assert core.next_condemned() is None
        held.verdict()

    def test_a_verdict_for_the_one_before_does_not_reach_the_next_of_that_pid(self, core: Core) -> None:
        controller = core.controller()
        first = core.held(44)
        [old] = controller.fetch().records
        core.exit(44)
        first.verdict()
        second = core.held(44)
        assert controller.block(old) == [wire.RESULT_STALE]
        assert second.waits() and core.next_condemned() is None


class Test07Timeout:
    @pytest.mark.parametrize(("verdict", "code"), [(Verdict.ALLOW, wire.VERDICT_ALLOW), (Verdict.BLOCK, wire.VERDICT_BLOCK)])
    def test_that_one_process_gets_the_timeout_verdict_and_the_gate_stays_armed(
        self, core: Core, verdict: Verdict, code: int
    ) -> None:
        controller = core.controller(hold_timeout_ms=1000, on_timeout=verdict)
        held = core.held(44)
        core.advance(999)
        assert held.waits() and controller.records()[44].hold_left_ms == 1
        later = core.held(48)
        core.advance(1)
        held.waits()
        core.work()
        assert held.verdict() == code and later.waits()
        record = controller.records()[44]
        assert (record.verdict, record.decided_by, record.held_ms) == (code, wire.BY_TIMEOUT, 1000)
        assert core.held(52).waits() and controller.info()["timeouts"] == 1

    def test_a_controller_that_had_fetched_it_is_told_once_more(self, core: Core) -> None:
        controller = core.controller(hold_timeout_ms=1000)
        held = core.held(44)
        controller.fetch()
        core.advance(1000)
        held.verdict()
        assert controller.wake_ups() == 2
        assert [r.decided_by for r in controller.fetch().records] == [wire.BY_TIMEOUT]
        assert controller.fetch().records == ()

    def test_no_timeout_is_for_ever(self, core: Core) -> None:
        controller = core.controller(hold_timeout_ms=wire.NO_TIMEOUT)
        held = core.held(44)
        core.advance(1 << 33)
        assert held.waits()
        assert controller.records()[44].held_ms == wire.UNLIMITED == controller.records()[44].hold_left_ms

    def test_a_new_timeout_of_the_same_controller_is_in_force_at_once(self, core: Core) -> None:
        controller = core.controller(hold_timeout_ms=wire.NO_TIMEOUT)
        held = core.held(44)
        assert controller.register(hold_timeout_ms=10) == SUCCESS
        core.advance(10)
        assert held.verdict() == wire.VERDICT_ALLOW


class Test08ControllerGone:
    @pytest.mark.parametrize("how", ["handle", "process", "reset"])
    @pytest.mark.parametrize(("verdict", "code"), [(Verdict.ALLOW, wire.VERDICT_ALLOW), (Verdict.BLOCK, wire.VERDICT_BLOCK)])
    def test_everything_held_gets_the_disconnect_verdict_at_once(
        self, core: Core, how: str, verdict: Verdict, code: int
    ) -> None:
        core.create(1000, running=True)
        controller = core.controller(1000, on_disconnect=verdict)
        threads = [core.held(pid) for pid in (44, 48, 52)]
        controller.fetch()
        if how == "handle":
            controller.close()
        elif how == "process":
            core.exit(1000)
        else:
            controller.must(wire.RESET)
        assert all(held.signaled for held in threads) == (verdict is Verdict.ALLOW)
        core.work()
        assert [held.verdict() for held in threads] == [code] * 3
        info = core.opened().info()
        assert (info["controller_pid"], info["held_count"]) == (0, 0)
        assert info["disconnects"] == (0 if how == "reset" else 3)
        assert {r.decided_by for pid, r in core.opened().records().items() if pid != 1000} == {wire.BY_DISCONNECT}

    def test_the_controllers_rules_go_with_it(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules((TOOL, Verdict.BLOCK))
        controller.close()
        assert core.opened().info()["rule_count"] == 0
        core.create(44, native_name=TOOL, refusable=True)
        assert core.image(44, TOOL) is None

    def test_another_handle_of_the_same_process_is_not_the_controller(self, core: Core) -> None:
        controller = core.controller(1000)
        held = core.held(44)
        other = core.opened(1000)
        assert other.request(wire.FETCH, room=100)[0] == INVALID_DEVICE_STATE
        other.close()
        assert held.waits()
        controller.close()
        held.verdict()

    def test_reset_is_back_to_the_state_after_load(self, core: Core) -> None:
        before = core.opened().info()
        controller = core.controller()
        controller.set_rules((TOOL, Verdict.ALLOW))
        held = core.held(44, SYSTEM32 + "x.exe")
        controller.fetch()
        controller.must(wire.RESET)
        held.verdict()
        core.exit(44)
        assert core.opened().info() == before | {"exited": 1}


class Test09Stop:
    def test_every_waiter_is_released_and_nobody_is_held_after(self, core: Core) -> None:
        controller = core.controller(on_disconnect=Verdict.BLOCK)
        threads = [core.held(pid) for pid in (44, 48)]
        core.create(52)
        core.stop()
        assert [held.verdict() for held in threads] == [wire.VERDICT_ALLOW] * 2
        assert core.holds_in_flight == 0
        assert core.image(52, TOOL) is None
        assert controller.request(wire.FETCH, room=100) == (DEVICE_NOT_READY, b"")
        assert core.opened().register() == DEVICE_NOT_READY
        core.stop()

    def test_what_was_condemned_still_dies_first(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        core.stop()
        assert held.waits() and core.holds_in_flight == 1
        assert core.work() == [44]
        assert held.verdict() == wire.VERDICT_BLOCK

    def test_real_threads_leave_at_once(self, core: Core) -> None:
        core.controller()
        threads = []
        for pid in (44, 48, 52):
            core.create(pid)
            name = TOOL.encode("utf-16-le")
            thread = threading.Thread(
                target=core.dll.hold_through, args=(core.host, pid, name, len(TOOL), 60_000), daemon=True
            )
            thread.start()
            threads.append(thread)
        while core.holds_in_flight < 3:
            pass
        core.stop()
        for thread in threads:
            thread.join(5)
            assert not thread.is_alive()


class Test10NeverHeld:
    NAMES = ("smss", "csrss", "wininit", "winlogon", "services", "lsass", "logonui", "conhost", "WerFault", "wermgr")

    @pytest.mark.parametrize("name", NAMES)
    def test_critical_programs_of_the_system_directory(self, core: Core, name: str) -> None:
        controller = core.controller()
        controller.set_rules((f"c:\\windows\\system32\\{name}.exe", Verdict.BLOCK))
        assert not core.create(44, native_name=SYSTEM32 + name + ".exe", refusable=True)
        assert core.image(44, SYSTEM32 + name + ".exe") is None
        [record] = controller.fetch().records
        assert record.flags & wire.FLAG_EXEMPT and record.decided_by == wire.BY_EXEMPT
        assert controller.info()["exempt"] == 1

    @pytest.mark.parametrize(
        "path",
        [
            "\\Device\\HarddiskVolume2\\Windows\\SysWOW64\\conhost.exe",
            "\\Device\\HarddiskVolume2\\Windows\\System32\\evil\\csrss.exe",
            "\\Device\\HarddiskVolume2\\Windows\\System32csrss.exe",
            "\\Device\\HarddiskVolume2\\csrss.exe",
            "\\Device\\HarddiskVolume1\\Windows\\System32\\csrss.exe",
            SYSTEM32 + "csrss.exe.exe",
            SYSTEM32 + "cmd.exe",
        ],
    )
    def test_the_same_names_elsewhere_are_programs_like_any_other(self, core: Core, path: str) -> None:
        core.controller()
        assert core.held(44, path).waits()

    def test_protected_processes(self, core: Core) -> None:
        core.controller()
        core.create(44)
        assert core.image(44, TOOL, protected=True) is None

    def test_the_controller_itself(self, core: Core) -> None:
        core.create(1000)
        core.controller(1000)
        assert core.image(1000, TOOL) is None
        assert core.opened().records()[1000].flags & wire.FLAG_EXEMPT

    def test_its_descendants_if_it_asks_for_that(self, core: Core) -> None:
        core.create(1000, running=True)
        core.create(1004, parent_pid=1000, running=True)
        core.controller(1000, flags=wire.EXEMPT_DESCENDANTS)
        for pid, parents in {
            44: {"parent_pid": 1000},
            48: {"parent_pid": 44},
            52: {"parent_pid": 4711, "creator_pid": 48},  # the parent was given by an attribute
            56: {"parent_pid": 1004},  # started by what it had started before it registered
        }.items():
            core.create(pid, **parents)
            assert core.image(pid, TOOL) is None, pid
            assert core.opened().records()[pid].flags & wire.FLAG_CONTROLLER_DESCENDANT
        core.exit(44), core.exit(48)
        core.create(60, parent_pid=52)
        assert core.image(60, TOOL) is None
        assert core.held(64, parent_pid=4711).waits()

    def test_its_descendants_are_held_and_marked_if_not(self, core: Core) -> None:
        controller = core.controller(1000, flags=0)
        core.held(44, parent_pid=1000)
        assert controller.records()[44].flags == wire.FLAG_CONTROLLER_DESCENDANT

    def test_a_pid_that_the_controllers_child_had_makes_nobody_its_descendant(self, core: Core) -> None:
        core.create(44, parent_pid=2000, running=True)  # its parent has gone
        controller = core.controller(1000, flags=wire.EXEMPT_DESCENDANTS)
        core.create(2000, parent_pid=1000)
        core.image(2000, TOOL)
        assert controller.records()[2000].flags & wire.FLAG_CONTROLLER_DESCENDANT
        assert core.held(48, parent_pid=44).waits()

    def test_descendants_of_an_earlier_controller_are_held(self, core: Core) -> None:
        core.controller(1000, flags=wire.EXEMPT_DESCENDANTS).close()
        first = core.controller(1000, flags=wire.EXEMPT_DESCENDANTS)
        core.create(44, parent_pid=1000)
        first.close()
        core.controller(2000, flags=wire.EXEMPT_DESCENDANTS)
        assert core.held(48, parent_pid=44).waits()


class Test11Unusual:
    def test_a_missing_name(self, core: Core) -> None:
        controller = core.controller()
        assert core.held(44, "").waits()
        [record] = controller.fetch().records
        assert record.flags == wire.FLAG_NAME_MISSING and controller.info()["missing_name"] == 1

    def test_the_name_of_the_creation_stands_in_for_a_missing_one(self, core: Core) -> None:
        controller = core.controller()
        core.create(44, native_name=TOOL)
        core.image(44, "")
        assert controller.fetch().records[0].image_name == "c:\\tools\\a.exe"
        assert controller.info()["missing_name"] == 0

    def test_an_exit_without_a_creation(self, core: Core) -> None:
        core.exit(44)
        assert core.opened().info()["exit_without_create"] == 1

    def test_an_image_without_a_creation_is_recorded_and_not_held(self, core: Core) -> None:
        controller = core.controller()
        assert core.image(44, TOOL) is None
        [record] = controller.fetch().records
        assert record.flags == wire.FLAG_CREATE_MISSED and record.state == wire.STATE_NAMED
        assert (record.verdict, record.decided_by) == (wire.VERDICT_ALLOW, wire.BY_LIMIT)
        assert controller.info()["image_without_create"] == 1

    def test_the_reuse_of_a_pid_without_an_exit(self, core: Core) -> None:
        controller = core.controller()
        first = core.held(44)
        [old] = controller.fetch().records
        second = core.held(44)
        first.verdict()
        gone, new = controller.fetch().records
        assert (gone.start_key, gone.state) == (old.start_key, wire.STATE_EXITING)
        assert new.start_key > old.start_key and new.state == wire.STATE_HELD
        assert second.waits() and controller.info()["pid_reused"] == 1

    def test_no_memory_for_a_record_lets_the_process_pass_and_is_counted(self, core: Core) -> None:
        controller = core.controller()
        core.fail_allocation(1)
        core.create(44)
        core.fail_allocation(1, forever=True)
        assert core.image(44, TOOL) is None
        core.fail_allocation(0)
        assert controller.records() == {}
        info = controller.info()
        assert info["allocation_failures"] == 2 and info["created"] == 1

    def test_no_memory_for_a_name_lets_the_process_pass_for_it_might_be_a_critical_one(self, core: Core) -> None:
        controller = core.controller()
        core.create(44)
        core.fail_allocation(1)
        assert core.image(44, TOOL) is None
        [record] = controller.fetch().records
        assert (record.decided_by, record.flags) == (wire.BY_LIMIT, wire.FLAG_NAME_MISSING)

    def test_a_full_table_lets_the_process_pass_and_gives_up_exit_records_first(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        core.create(5)
        assert core.image(5, TOOL) is None
        core.exit(5)
        assert controller.info()["record_count"] == 1
        for pid in range(8, 8 + wire.MAX_RECORDS - 1):
            core.dll.gate_on_create(core.host, pid, 0, 0, 0, 1, None, 0, None, 0, 0, 0)
        assert controller.info()["record_count"] == controller.info()["record_limit"] == wire.MAX_RECORDS
        core.create(200_000)
        info = controller.info()
        assert (info["exits_lost"], info["table_full"]) == (1, 0)
        core.create(200_004)
        assert controller.info()["table_full"] == 1
        assert core.image(200_004, TOOL) is None
        assert controller.info()["table_full"] == 2
        core.exit(200_000)
        core.create(200_008)
        assert core.image(200_008, TOOL) is None and controller.info()["rule_allowed"] == 2


class Test12Device:
    @pytest.mark.parametrize("code", [wire.REGISTER, wire.ALLOW, wire.BLOCK, wire.RESET, wire.SET_RULES])
    def test_what_changes_something_needs_write_access(self, core: Core, code: int) -> None:
        assert core.opened(access=wire.ACCESS_READ).request(code, bytes(32), 64)[0] == ACCESS_DENIED

    @pytest.mark.parametrize("code", [wire.INFO, wire.LIST, wire.FETCH])
    def test_what_reads_needs_read_access(self, core: Core, code: int) -> None:
        assert core.opened(access=wire.ACCESS_WRITE).request(code, bytes(32), 400)[0] == ACCESS_DENIED

    @pytest.mark.parametrize("code", [wire.FETCH, wire.ALLOW, wire.BLOCK, wire.RESET, wire.SET_RULES])
    def test_what_is_the_controllers_is_refused_to_others(self, core: Core, code: int) -> None:
        core.controller()
        assert core.opened().request(code, bytes(32), 64)[0] == INVALID_DEVICE_STATE

    @pytest.mark.parametrize("code", [0, 1, wire.INFO + 1, wire.SET_RULES + 4, wire.NOTE_CREATED, 0xFFFFFFFF])
    def test_unknown_requests_are_refused(self, core: Core, code: int) -> None:
        assert core.controller().request(code, bytes(64), 64)[0] == INVALID_DEVICE_REQUEST

    @pytest.mark.parametrize(
        ("code", "size"),
        [(wire.REGISTER, 32), (wire.LIST, 8), (wire.ALLOW, 16), (wire.BLOCK, 16), (wire.SET_RULES, 8)],
    )
    def test_an_input_that_is_too_short_is_refused(self, core: Core, code: int, size: int) -> None:
        controller = core.controller()
        for length in range(size):
            assert controller.request(code, bytes(length), 64)[0] == INFO_LENGTH_MISMATCH

    def test_half_a_target_is_refused(self, core: Core) -> None:
        assert core.controller().request(wire.ALLOW, bytes(24), 64)[0] == INFO_LENGTH_MISMATCH

    @pytest.mark.parametrize(
        ("code", "data", "size"),
        [(wire.INFO, 0, 240), (wire.FETCH, 0, 16), (wire.LIST, 8, 16), (wire.ALLOW, 16, 4), (wire.BLOCK, 64, 16)],
    )
    def test_an_output_that_is_too_small_is_refused(self, core: Core, code: int, data: int, size: int) -> None:
        controller = core.controller()
        for room in range(size):
            assert controller.request(code, bytes(data), room)[0] == BUFFER_TOO_SMALL
        assert controller.request(code, bytes(data), size)[0] == SUCCESS

    def test_too_many_targets_are_refused(self, core: Core) -> None:
        controller = core.controller()
        assert controller.request(wire.ALLOW, bytes(16 * 4096), 4 * 4096)[0] == SUCCESS
        assert controller.request(wire.ALLOW, bytes(16 * 4097), 4 * 4097)[0] == INVALID_PARAMETER

    @pytest.mark.parametrize("overlap", [True, False])
    def test_input_and_output_may_be_one_buffer(self, core: Core, overlap: bool) -> None:
        controller = core.controller()
        for pid in range(8, 408, 4):
            core.held(pid)
        records = controller.fetch().records
        data = wire.encode_targets([(record.pid, record.start_key) for record in records])
        status, reply = controller.request(wire.ALLOW, data, 400, overlap=overlap)
        assert status == SUCCESS and reply == bytes(400)
        assert all(held.verdict() == wire.VERDICT_ALLOW for held in list(core.holds))
        status, reply = controller.request(wire.LIST, wire.encode_list(records[9].start_key), 300, overlap=overlap)
        assert wire.decode_records(reply).records[0].pid == records[10].pid

    def test_replies_hold_no_byte_of_anything_else(self, core: Core) -> None:
        controller = core.controller()
        core.held(44, TOOL + "x", command_line="abc")
        reply = controller.must(wire.FETCH, room=1000)
        again = wire.encode_records(wire.decode_records(reply))
        assert reply == again, "padding or reserved fields are not zero"
        info = controller.must(wire.INFO, room=400)
        assert info[wire.INFO_REPLY.offsets["reserved"] :][:4] == bytes(4) and info[-24:] == bytes(24)


class Test13OlderKernels:
    def test_info_tells_the_features(self, core: Core) -> None:
        assert core.opened().info()["features"] == wire.FEATURE_CREATE_EX
        core.dll.gate_set_features(core.host, wire.FEATURE_DEBUG_BUILD)
        assert core.opened().info()["features"] == wire.FEATURE_DEBUG_BUILD

    def test_a_rule_refuses_the_creation_where_the_kernel_can(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.BLOCK))
        assert core.create(44, native_name=TOOL, refusable=True)
        [record] = controller.fetch().records
        assert (record.state, record.decided_by) == (wire.STATE_EXITING, wire.BY_RULE)
        assert record.flags & wire.FLAG_NEVER_STARTED and record.exit_status == wire.STATUS_BLOCKED
        assert controller.records() == {} and controller.info()["rule_blocked"] == 1

    def test_where_it_cannot_the_rule_waits_for_the_image(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.BLOCK))
        assert not core.create(44)
        held = core.image(44, TOOL)
        assert held is not None and held.waits()
        assert core.work() == [44] and held.verdict() == wire.VERDICT_BLOCK
        info = controller.info()
        assert (info["rule_blocked"], info["held"]) == (1, 0)
        assert [r.decided_by for r in controller.fetch().records] == [wire.BY_RULE]

    @pytest.mark.parametrize("path", ["c:\\tools\\a.exe", "C:\\Tools\\A.EXE", TOOL, TOOL.upper()])
    def test_rules_name_dos_or_native_paths(self, core: Core, path: str) -> None:
        controller = core.controller()
        assert controller.set_rules((path, Verdict.ALLOW)) == SUCCESS
        core.create(44)
        assert core.image(44, TOOL) is None
        assert controller.info()["rule_allowed"] == 1
        assert core.held(48, TOOL + "x").waits()

    def test_of_two_rules_for_one_path_the_first_wins(self, core: Core) -> None:
        controller = core.controller()
        for first, second in ((TOOL, "c:\\tools\\a.exe"), ("c:\\tools\\a.exe", TOOL), (TOOL, TOOL)):
            controller.set_rules((first, Verdict.ALLOW), (second, Verdict.BLOCK))
            core.create(44)
            assert core.image(44, TOOL) is None
            core.exit(44)

    def test_malformed_rules_leave_the_old_ones_in_force(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        good = wire.encode_rules([("c:\\b.exe", Verdict.BLOCK), ("c:\\c.exe", Verdict.BLOCK)])
        bad = [good[:cut] for cut in range(8, len(good))]
        for offset, value in ((0, 1), (0, 3), (4, 1), (8, 48), (12, 0), (12, 3), (16, 15), (16, 0), (20, 1)):
            bad.append(good[:offset] + bytes([value]) + good[offset + 1 :])
        for data in [*bad, good + bytes(8)]:
            assert controller.request(wire.SET_RULES, data)[0] == INVALID_PARAMETER, data
        assert controller.info()["rule_count"] == 1
        assert controller.request(wire.SET_RULES, good)[0] == SUCCESS and controller.info()["rule_count"] == 2
        assert controller.set_rules() == SUCCESS and controller.info()["rule_count"] == 0
