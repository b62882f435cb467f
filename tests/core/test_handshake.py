"""The core's part of points 1 to 7 of the handshake in docs/design.md: one class for each point."""

import pytest

from core.harness import (
    CRITICAL,
    DEVICE_NOT_READY,
    FAILED,
    INVALID_HANDLE,
    INVALID_PARAMETER,
    OBJECT_TYPE_MISMATCH,
    REVISION_MISMATCH,
    SHARING_VIOLATION,
    START_FILETIME,
    SUCCESS,
    SYSTEM32,
    TOOL,
    Core,
)
from procmon.driver import protocol
from procmon.records import Verdict

VERDICTS = [(Verdict.ALLOW, protocol.VERDICT_ALLOW), (Verdict.BLOCK, protocol.VERDICT_BLOCK)]


class Test01Loading:
    def test_a_start_without_memory_leaves_nothing_behind(self) -> None:
        for n in (1, 2, 3):
            core = Core(start=False)
            core.fail_allocation(n)
            assert core.start() != SUCCESS
            core.close()

    def test_before_its_start_a_gate_holds_nothing_and_refuses_requests(self) -> None:
        core = Core(start=False)
        assert not core.create(44)
        assert core.image(44, TOOL) is None
        core.exit(44)
        assert core.next_to_terminate() is None
        assert core.opened().request(protocol.INFO, room=400) == (DEVICE_NOT_READY, b"")
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
        assert (record.state, record.flags, record.created) == (protocol.STATE_NAMED, protocol.FLAG_RUNNING_BEFORE, 5)
        assert (record.verdict, record.decided_by) == (protocol.VERDICT_NONE, protocol.BY_NONE)

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

    @pytest.mark.fault(
        "one handle sends REGISTER twice",
        gate="driver, core",
        held="stays held; the new event is set at once",
        told="-",
        counted="-",
        written="-",
    )
    def test_a_new_event_of_the_same_controller_is_set_when_a_process_is_held_already(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.fetch()
        assert controller.register() == SUCCESS
        assert controller.wake_ups() == 1
        assert held.waits()

    @pytest.mark.fault(
        "two processes send REGISTER",
        gate="driver, core",
        held="stays with the first controller",
        told="an error for the second",
        counted="-",
        written="-",
    )
    def test_a_second_controller_hears_that_there_is_one(self, core: Core) -> None:
        controller = core.controller()
        assert core.opened(2000).register() == SHARING_VIOLATION
        controller.close()
        assert core.opened(2000).register() == SUCCESS

    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ({"version": 1 << 16}, REVISION_MISMATCH),
            ({"version": 3 << 16}, REVISION_MISMATCH),
            ({"version": 2 << 16 | 99}, SUCCESS),
            ({"flags": 4}, INVALID_PARAMETER),
            ({"event": 4711}, INVALID_HANDLE),
        ],
    )
    def test_options_are_checked(self, core: Core, options: dict[str, int], status: int) -> None:
        assert core.opened().register(**options) == status

    def test_what_is_no_event_is_refused(self, core: Core) -> None:
        assert core.opened().register(event=core.event(is_event=False)) == OBJECT_TYPE_MISMATCH

    @pytest.mark.parametrize(
        "field", ["timeout_verdict", "disconnect_verdict", "limit_verdict", "tamper_verdict", "pico_verdict"]
    )
    @pytest.mark.parametrize("verdict", [0, 3])
    def test_a_verdict_that_is_none_is_refused(self, core: Core, field: str, verdict: int) -> None:
        data = bytearray(protocol.encode_register(core.event()))
        data[protocol.REGISTER_REQUEST.offsets[field]] = verdict
        assert core.opened().request(protocol.REGISTER, bytes(data))[0] == INVALID_PARAMETER

    def test_info_tells_the_options_in_force(self, core: Core) -> None:
        names = ("timeout", "disconnect", "limit", "tamper", "pico")
        assert [core.opened().info()[f"{name}_verdict"] for name in names] == [0] * 5
        controller = core.controller(
            on_timeout=Verdict.BLOCK, on_limit=Verdict.BLOCK, on_tamper=Verdict.ALLOW, on_pico=Verdict.BLOCK, flags=1
        )
        info = controller.info()
        assert [info[f"{name}_verdict"] for name in names] == [2, 1, 2, 1, 2]
        assert (info["register_flags"], info["text_limit"]) == (1, protocol.MAX_TEXT_BYTES)

    def test_running_processes_are_shown_to_each_new_controller_once(self, core: Core) -> None:
        first = core.controller()
        held = core.held(44)
        first.allow(*first.fetch().records)
        held.verdict()
        first.close()
        [record] = (second := core.controller(2000)).fetch().records
        assert record.pid == 44 and record.flags == protocol.FLAG_RUNNING_BEFORE
        assert second.fetch().records == ()


class Test03Creation:
    def test_a_creation_is_recorded_with_all_that_is_known(self, core: Core) -> None:
        core.create(44, parent_pid=7, creator_pid=8, creator_tid=9, created=10, command_line="a b", native_name=TOOL)
        [record] = core.opened().listing().records
        expected = protocol.Record(
            pid=44, start_key=START_FILETIME + 1, created=10, parent_pid=7, creator_pid=8, creator_tid=9,
            image_name="c:\\tools\\a.exe", native_name=TOOL, command_line="a b", flags=protocol.FLAG_PARENT_CLAIMED,
        )  # fmt: skip
        assert record == expected

    def test_a_creation_without_a_time_gets_the_ports(self, core: Core) -> None:
        core.create(44)
        assert core.opened().records()[44].created == START_FILETIME

    def test_a_long_command_line_is_cut_and_flagged(self, core: Core) -> None:
        core.create(44, command_line="x" * 5000)
        core.create(48, command_line="x" * 4096)
        records = core.opened().records()
        assert records[44].command_line == "x" * 4096 and records[44].flags == protocol.FLAG_COMMAND_LINE_TRUNCATED
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
        assert (record.state, record.image_name, record.native_name) == (protocol.STATE_HELD, "c:\\tools\\a.exe", TOOL)

    def test_later_images_pass(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        assert core.image(44, SYSTEM32 + "ntdll.dll") is None
        controller.allow(*controller.fetch().records)
        assert held.verdict() == protocol.VERDICT_ALLOW
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
        assert (record.verdict, record.decided_by) == (protocol.VERDICT_ALLOW, protocol.BY_NO_CONTROLLER)

    @pytest.mark.parametrize(
        ("native", "dos"),
        [
            ("\\Device\\HarddiskVolume1\\A.EXE", "d:\\a.exe"),
            ("\\device\\harddiskvolume2\\\u00c4\u0416.EXE", "c:\\\u00e4\u0436.exe"),
            ("\\Device\\Mup\\Server\\Share\\A.exe", "\\\\server\\share\\a.exe"),
            ("\\Device\\Mup\\;LanmanRedirector\\;Z:3e7\\Server\\Share\\A.exe", "\\\\server\\share\\a.exe"),
            ("\\??\\E:\\A.exe", "e:\\a.exe"),
            ("\\SystemRoot\\System32\\smss.exe", "c:\\windows\\system32\\smss.exe"),
        ],
    )
    def test_native_names_become_dos_paths(self, core: Core, native: str, dos: str) -> None:
        core.create(44, native_name=native)
        record = core.opened().records()[44]
        assert (record.image_name, record.native_name, record.flags & protocol.FLAG_NAME_NATIVE) == (dos, native, 0)

    @pytest.mark.parametrize(
        "native",
        [
            "\\Device\\HarddiskVolume11\\A.exe",
            "\\Device\\HarddiskVolume1",
            "\\??\\UNC\\s\\A.exe",
            "\\??\\E:A",
            "A.exe",
            "\\??",
        ],
    )
    def test_a_name_without_a_drive_letter_stays_native_and_is_flagged(self, core: Core, native: str) -> None:
        core.create(44, native_name=native)
        record = core.opened().records()[44]
        assert (record.image_name, record.native_name) == (native.lower(), native)
        assert record.flags & protocol.FLAG_NAME_NATIVE

    def test_a_new_volume_map_replaces_the_old_one_at_once(self, core: Core) -> None:
        core.dll.gate_volumes_begin(core.host)
        core.create(44, native_name=TOOL)
        core.set_volumes({"\\Device\\HarddiskVolume2": "X"})
        core.create(48, native_name=TOOL)
        records = core.opened().records()
        assert (records[44].image_name, records[48].image_name) == ("c:\\tools\\a.exe", "x:\\tools\\a.exe")


class Test05Fetch:
    @pytest.mark.promise("FETCH returns each record once and loses none", gate="driver, core")
    def test_each_record_is_given_once_and_marked(self, core: Core) -> None:
        controller = core.controller()
        core.held(44)
        assert [r.flags & protocol.FLAG_SEEN for r in controller.fetch().records] == [0]
        assert controller.fetch().records == ()
        assert controller.records()[44].flags & protocol.FLAG_SEEN

    def test_a_small_buffer_loses_nothing(self, core: Core) -> None:
        controller = core.controller()
        for pid in range(4, 104, 4):
            core.held(pid + 1, TOOL + "x" * pid)
        expected = [r.pid for r in controller.listing().records]
        got: list[int] = []
        room = protocol.RECORDS_HEADER.size
        while reply := controller.fetch(room):
            got += [record.pid for record in reply.records]
            if not reply.needed_bytes:
                break
            if not reply.records:
                room = protocol.RECORDS_HEADER.size + reply.needed_bytes
        assert got == expected

    def test_list_pages_through_all_and_marks_nothing(self, core: Core) -> None:
        core.controller()
        for pid in range(8, 1008, 4):
            core.create(pid, native_name=TOOL)
        reader = core.opened()
        got, after, pages = [], 0, 0
        while pages == 0 or after:
            page = reader.listing(after, room=1000)
            got += [record.pid for record in page.records]
            after, pages = page.next_key, pages + 1
            core.exit(got[-1])  # the record at which the paging stopped
        assert got == list(range(8, 1008, 4)) and pages > 40

    def test_exits_are_given_once_more_if_asked_for(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.allow(*controller.fetch().records)
        held.verdict()
        core.advance(5)
        core.exit(44, 7)
        [record] = controller.fetch().records
        assert (record.state, record.exit_status) == (protocol.STATE_EXITING, 7)
        assert record.exited - record.created == 50_000
        assert record.flags & protocol.FLAG_SEEN
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
        assert (record.pid, record.state, record.flags & protocol.FLAG_SEEN) == (48, protocol.STATE_EXITING, 0)


class Test06Verdicts:
    def test_each_target_is_answered_on_its_own(self, core: Core) -> None:
        controller = core.controller()
        core.held(44), core.held(48)
        core.create(52)
        a, b = controller.fetch().records
        new = controller.records()[52]
        assert controller.allow(a, (4711, 1), (b.pid, b.start_key + 9), a, new, b) == [
            protocol.RESULT_DONE, protocol.RESULT_UNKNOWN, protocol.RESULT_STALE,
            protocol.RESULT_ANSWERED, protocol.RESULT_NOT_HELD,
            protocol.RESULT_DONE,
        ]  # fmt: skip
        info = controller.info()
        counted = [info[name] for name in ("allowed", "unknown_verdicts", "stale_verdicts", "late_verdicts")]
        assert counted == [2, 1, 1, 2]

    def test_a_blocked_process_waits_until_it_has_been_terminated(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        assert held.waits() and not held.signaled
        to_terminate = core.next_to_terminate()
        assert to_terminate and to_terminate[0] == 44 and core.next_to_terminate() is None
        assert held.waits()
        core.terminated(to_terminate)
        assert held.verdict() == protocol.VERDICT_BLOCK

    @pytest.mark.promise(
        "A blocked process does not run while the driver is loaded, however often its termination fails",
        gate="driver, core",
    )
    def test_one_that_will_not_die_stays_held_and_is_tried_every_second_until_it_does(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        for _ in range(20):
            assert held.waits()
            assert core.work(FAILED) == [44]
            to_terminate, wait_ms = core.ask_worker()
            assert to_terminate is None and wait_ms in (50, 1000)
            core.advance(wait_ms)
        assert wait_ms == 1000
        [record] = controller.fetch().records
        assert record.state == protocol.STATE_ANSWERED and record.flags & protocol.FLAG_TERMINATE_FAILED
        core.advance(3_600_000)
        assert core.work(FAILED) == [44] and held.waits()
        assert controller.info()["terminate_failures"] == 21
        core.advance(1000)
        assert core.work() == [44] and held.verdict() == protocol.VERDICT_BLOCK

    @pytest.mark.fault(
        "a blocked process cannot be terminated, and its controller goes away",
        gate="driver, core",
        held="stays held; the driver retries each second",
        told="-",
        counted="terminate_failures",
        written="-",
    )
    @pytest.mark.parametrize("how", ["handle", "process", "reset", "quiesce"])
    def test_one_that_will_not_die_stays_held_when_the_controller_goes(self, core: Core, how: str) -> None:
        core.create(1000)
        controller = core.controller(on_disconnect=Verdict.ALLOW)
        held = core.held(44)
        controller.block(*controller.fetch().records)
        core.work(FAILED)
        if how == "handle":
            controller.close()
        elif how == "process":
            core.exit(1000)
        else:
            controller.must(protocol.RESET if how == "reset" else protocol.QUIESCE)
        core.advance(1000)
        assert held.waits() and core.work(FAILED) == [44] and held.waits()
        core.advance(1000)
        assert core.work() == [44] and held.verdict() == protocol.VERDICT_BLOCK

    def test_one_that_will_not_die_does_not_delay_another(self, core: Core) -> None:
        controller = core.controller()
        undying, other = core.held(44), core.held(48)
        controller.block(controller.records()[44])
        assert core.work(FAILED) == [44]
        controller.block(controller.records()[48])
        assert core.work() == [48] and other.verdict() == protocol.VERDICT_BLOCK and undying.waits()

    def test_a_critical_process_is_not_terminated_and_stays_held(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        assert core.work(CRITICAL) == [44] and held.waits()
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_TERMINATE_FAILED
        assert (controller.info()["critical_refused"], controller.info()["terminate_failures"]) == (1, 0)
        assert core.ask_worker() == (None, 1000)

    def test_the_pid_stays_with_its_thread_while_the_worker_has_it_in_hand(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        to_terminate = core.next_to_terminate()
        assert to_terminate
        core.exit(44)
        assert held.waits(), "the thread left while its pid could still be terminated"
        core.terminated(to_terminate)
        assert held.verdict() == protocol.VERDICT_BLOCK

    def test_one_that_has_gone_by_itself_is_not_terminated(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        core.exit(44)
        assert core.next_to_terminate() is None
        held.verdict()

    @pytest.mark.promise(
        "A verdict reaches the process it was meant for, or none, also when the pid is reused", gate="driver, core"
    )
    def test_a_verdict_for_the_one_before_does_not_reach_the_next_of_that_pid(self, core: Core) -> None:
        controller = core.controller()
        first = core.held(44)
        [old] = controller.fetch().records
        core.exit(44)
        first.verdict()
        second = core.held(44)
        assert controller.block(old) == [protocol.RESULT_STALE]
        assert second.waits() and core.next_to_terminate() is None


class Test07Timeout:
    @pytest.mark.parametrize(("verdict", "code"), VERDICTS)
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
        assert (record.verdict, record.decided_by, record.held_ms) == (code, protocol.BY_TIMEOUT, 1000)
        assert core.held(52).waits() and controller.info()["timeouts"] == 1

    def test_a_held_thread_looks_again_every_250_ms_and_at_the_very_end_of_its_timeout(self, core: Core) -> None:
        core.controller(hold_timeout_ms=600)
        held = core.held(44)
        slices = []
        while held.waits():
            slices.append(held.slice_ms)
            core.advance(held.slice_ms)
        assert slices == [250, 250, 100] and held.verdict() == protocol.VERDICT_ALLOW

    def test_after_five_seconds_it_looks_every_second(self, core: Core) -> None:
        core.controller(hold_timeout_ms=7500)
        held = core.held(44)
        slices = []
        while held.waits():
            slices.append(held.slice_ms)
            core.advance(held.slice_ms)
        assert slices == [250] * 20 + [1000, 1000, 500]
        held.end()

    def test_a_controller_that_had_fetched_it_is_told_once_more(self, core: Core) -> None:
        controller = core.controller(hold_timeout_ms=1000)
        held = core.held(44)
        controller.fetch()
        core.advance(1000)
        held.verdict()
        assert controller.wake_ups() == 2
        assert [r.decided_by for r in controller.fetch().records] == [protocol.BY_TIMEOUT]
        assert controller.fetch().records == ()

    def test_no_timeout_is_for_ever(self, core: Core) -> None:
        controller = core.controller(hold_timeout_ms=protocol.NO_TIMEOUT)
        held = core.held(44)
        core.advance(1 << 33)
        assert held.waits()
        assert controller.records()[44].held_ms == protocol.UNLIMITED == controller.records()[44].hold_left_ms

    def test_a_new_timeout_of_the_same_controller_is_in_force_at_once(self, core: Core) -> None:
        controller = core.controller(hold_timeout_ms=protocol.NO_TIMEOUT)
        held = core.held(44)
        assert controller.register(hold_timeout_ms=10) == SUCCESS
        core.advance(10)
        assert held.verdict() == protocol.VERDICT_ALLOW
