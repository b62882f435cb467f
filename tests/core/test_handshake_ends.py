"""The handshake of docs/design.md, points 8 to 13, as far as they are the core's: one class for each point."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from core.harness import (
    ACCESS_DENIED,
    BUFFER_TOO_SMALL,
    DEVICE_NOT_READY,
    INFO_LENGTH_MISMATCH,
    INVALID_DEVICE_REQUEST,
    INVALID_DEVICE_STATE,
    INVALID_PARAMETER,
    SUCCESS,
    Core,
)
from procmon.driver import protocol
from procmon.records import Verdict

VERDICTS = [(Verdict.ALLOW, protocol.VERDICT_ALLOW), (Verdict.BLOCK, protocol.VERDICT_BLOCK)]
TOOL = "\\Device\\HarddiskVolume2\\Tools\\A.exe"
SYSTEM32 = "\\Device\\HarddiskVolume2\\Windows\\System32\\"


@pytest.fixture
def core() -> Iterator[Core]:
    with Core() as core:
        yield core


class Test08ControllerGone:
    @pytest.mark.parametrize("how", ["handle", "process", "reset"])
    @pytest.mark.parametrize(("verdict", "code"), VERDICTS)
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
            controller.must(protocol.RESET)
        assert all(held.signaled for held in threads) == (verdict is Verdict.ALLOW)
        core.work()
        assert [held.verdict() for held in threads] == [code] * 3
        info = core.opened().info()
        assert (info["controller_pid"], info["held_count"]) == (0, 0)
        assert info["disconnects"] == (0 if how == "reset" else 3)
        assert {r.decided_by for pid, r in core.opened().records().items() if pid != 1000} == {protocol.BY_DISCONNECT}

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
        assert other.request(protocol.FETCH, room=100)[0] == INVALID_DEVICE_STATE
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
        controller.must(protocol.RESET)
        held.verdict()
        core.exit(44)
        assert core.opened().info() == before | {"exited": 1}


class Test09Stop:
    def test_every_waiter_is_released_and_nobody_is_held_after(self, core: Core) -> None:
        controller = core.controller(on_disconnect=Verdict.BLOCK)
        threads = [core.held(pid) for pid in (44, 48)]
        core.create(52)
        core.stop()
        assert [held.verdict() for held in threads] == [protocol.VERDICT_ALLOW] * 2
        assert core.holds_in_flight == 0
        assert core.image(52, TOOL) is None
        assert controller.request(protocol.FETCH, room=100) == (DEVICE_NOT_READY, b"")
        assert core.opened().register() == DEVICE_NOT_READY
        core.stop()

    def test_what_was_condemned_still_dies_first(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        core.stop()
        assert held.waits() and core.holds_in_flight == 1
        assert core.work() == [44]
        assert held.verdict() == protocol.VERDICT_BLOCK

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
    NAMES = (
        "smss", "csrss", "wininit", "winlogon", "services", "lsass", "logonui", "dwm", "fontdrvhost", "conhost",
        "WerFault", "wermgr",
    )  # fmt: skip

    @pytest.mark.parametrize("name", NAMES)
    def test_critical_programs_of_the_system_directory(self, core: Core, name: str) -> None:
        controller = core.controller()
        controller.set_rules((f"c:\\windows\\system32\\{name}.exe", Verdict.BLOCK))
        assert not core.create(44, native_name=SYSTEM32 + name + ".exe", refusable=True)
        assert core.image(44, SYSTEM32 + name + ".exe") is None
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_EXEMPT and record.decided_by == protocol.BY_EXEMPT
        assert controller.info()["exempt"] == 1

    @pytest.mark.parametrize(
        "path",
        [
            "\\Device\\HarddiskVolume2\\Windows\\SysWOW65\\WerFault.exe",
            "\\Device\\HarddiskVolume2\\Other\\SysWOW64\\WerFault.exe",
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

    def test_the_error_reporter_of_32_bit_programs(self, core: Core) -> None:
        core.controller()
        core.create(44)
        assert core.image(44, "\\Device\\HarddiskVolume2\\Windows\\SysWOW64\\WerFault.exe") is None

    def test_protected_processes(self, core: Core) -> None:
        core.controller()
        core.create(44)
        assert core.image(44, TOOL, protected=True) is None

    def test_the_controller_itself(self, core: Core) -> None:
        core.create(1000)
        core.controller(1000)
        assert core.image(1000, TOOL) is None
        assert core.opened().records()[1000].flags & protocol.FLAG_EXEMPT

    def test_its_descendants_if_it_asks_for_that(self, core: Core) -> None:
        core.create(1000, running=True)
        core.create(1004, parent_pid=1000, running=True)
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        descendants: dict[int, dict[str, Any]] = {
            44: {"parent_pid": 1000},
            48: {"parent_pid": 44},
            52: {"parent_pid": 4711, "creator_pid": 48},  # the parent was given by an attribute
            56: {"parent_pid": 1004},  # started by what it had started before it registered
        }
        for pid, parents in descendants.items():
            core.create(pid, **parents)
            assert core.image(pid, TOOL) is None, pid
            assert core.opened().records()[pid].flags & protocol.FLAG_CONTROLLER_DESCENDANT
        core.exit(44)
        core.exit(48)
        core.create(60, parent_pid=52)
        assert core.image(60, TOOL) is None
        assert core.held(64, parent_pid=4711).waits()

    def test_its_descendants_are_held_and_marked_if_not(self, core: Core) -> None:
        controller = core.controller(1000, flags=0)
        core.held(44, parent_pid=1000)
        assert controller.records()[44].flags == protocol.FLAG_CONTROLLER_DESCENDANT

    def test_a_pid_that_the_controllers_child_had_makes_nobody_its_descendant(self, core: Core) -> None:
        core.create(44, parent_pid=2000, running=True)  # its parent has gone
        controller = core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        core.create(2000, parent_pid=1000)
        core.image(2000, TOOL)
        assert controller.records()[2000].flags & protocol.FLAG_CONTROLLER_DESCENDANT
        assert core.held(48, parent_pid=44).waits()

    def test_descendants_of_an_earlier_controller_are_held(self, core: Core) -> None:
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS).close()
        first = core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        core.create(44, parent_pid=1000)
        first.close()
        core.controller(2000, flags=protocol.EXEMPT_DESCENDANTS)
        assert core.held(48, parent_pid=44).waits()


class Test11Unusual:
    def test_a_missing_name(self, core: Core) -> None:
        controller = core.controller()
        assert core.held(44, "").waits()
        [record] = controller.fetch().records
        assert record.flags == protocol.FLAG_NAME_MISSING and controller.info()["missing_name"] == 1

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
        assert record.flags == protocol.FLAG_CREATE_MISSED and record.state == protocol.STATE_NAMED
        assert (record.verdict, record.decided_by) == (protocol.VERDICT_ALLOW, protocol.BY_LIMIT)
        assert controller.info()["image_without_create"] == 1

    def test_the_reuse_of_a_pid_without_an_exit(self, core: Core) -> None:
        controller = core.controller()
        first = core.held(44)
        [old] = controller.fetch().records
        second = core.held(44)
        first.verdict()
        gone, new = controller.fetch().records
        assert (gone.start_key, gone.state) == (old.start_key, protocol.STATE_EXITING)
        assert new.start_key > old.start_key and new.state == protocol.STATE_HELD
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
        assert (record.decided_by, record.flags) == (protocol.BY_LIMIT, protocol.FLAG_NAME_MISSING)

    def test_a_full_table_lets_the_process_pass_and_gives_up_exit_records_first(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        core.create(5)
        assert core.image(5, TOOL) is None
        core.exit(5)
        assert controller.info()["record_count"] == 1
        for pid in range(8, 8 + protocol.MAX_RECORDS - 1):
            core.dll.gate_on_create(core.host, pid, 0, 0, 0, 1, None, 0, None, 0, 0, 0)
        assert controller.info()["record_count"] == controller.info()["record_limit"] == protocol.MAX_RECORDS
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

    def test_a_process_that_others_end_while_it_is_held_leaves_without_a_verdict(self, core: Core) -> None:
        controller = core.controller(hold_timeout_ms=protocol.NO_TIMEOUT)
        held = core.held(44)
        [record] = controller.fetch().records
        assert held.waits()
        assert held.waits(dying=True)  # until the worker has seen to it that all of the process ends
        assert controller.allow(record) == [protocol.RESULT_ANSWERED]
        assert core.work() == [44]
        assert not held.waits(dying=True)
        held.end()
        core.exit(44, 1)
        [record] = controller.fetch().records
        assert (record.state, record.verdict, record.exit_status) == (protocol.STATE_EXITING, protocol.VERDICT_NONE, 1)
        assert controller.info()["died_held"] == 1

    def test_a_process_that_others_end_before_it_runs_is_asked_about_by_nobody(self, core: Core) -> None:
        controller = core.controller()
        core.create(44)
        held = core.image(44, TOOL, dying=True)
        assert held is not None  # a second thread could go on alone: the worker ends the process
        [record] = controller.fetch().records
        assert (record.state, record.verdict) == (protocol.STATE_ANSWERED, protocol.VERDICT_NONE)
        assert core.work() == [44]
        assert not held.waits(dying=True)
        held.end()
        info = controller.info()
        assert (info["held"], info["died_held"]) == (0, 1)

    def test_the_end_of_a_creation_that_a_rule_refused_is_no_news(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.BLOCK))
        assert core.create(44, native_name=TOOL, refusable=True)
        assert core.image(44, TOOL, dying=True) is None
        core.exit(44, protocol.STATUS_BLOCKED)
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_NEVER_STARTED and record.verdict == protocol.VERDICT_BLOCK
        info = controller.info()
        assert (info["image_without_create"], info["exit_without_create"]) == (0, 0)


class Test12Device:
    @pytest.mark.parametrize(
        "code", [protocol.REGISTER, protocol.ALLOW, protocol.BLOCK, protocol.RESET, protocol.SET_RULES]
    )
    def test_what_changes_something_needs_write_access(self, core: Core, code: int) -> None:
        assert core.opened(access=protocol.ACCESS_READ).request(code, bytes(32), 64)[0] == ACCESS_DENIED

    @pytest.mark.parametrize("code", [protocol.INFO, protocol.LIST, protocol.FETCH])
    def test_what_reads_needs_read_access(self, core: Core, code: int) -> None:
        assert core.opened(access=protocol.ACCESS_WRITE).request(code, bytes(32), 400)[0] == ACCESS_DENIED

    @pytest.mark.parametrize(
        "code", [protocol.FETCH, protocol.ALLOW, protocol.BLOCK, protocol.RESET, protocol.SET_RULES]
    )
    def test_what_is_the_controllers_is_refused_to_others(self, core: Core, code: int) -> None:
        core.controller()
        assert core.opened().request(code, bytes(32), 64)[0] == INVALID_DEVICE_STATE

    @pytest.mark.parametrize(
        "code", [0, 1, protocol.INFO + 1, protocol.SET_RULES + 4, protocol.NOTE_CREATED, 0xFFFFFFFF]
    )
    def test_unknown_requests_are_refused(self, core: Core, code: int) -> None:
        assert core.controller().request(code, bytes(64), 64)[0] == INVALID_DEVICE_REQUEST

    @pytest.mark.parametrize(
        ("code", "size"),
        [
            (protocol.REGISTER, 32),
            (protocol.LIST, 8),
            (protocol.ALLOW, 16),
            (protocol.BLOCK, 16),
            (protocol.SET_RULES, 8),
        ],
    )
    def test_an_input_that_is_too_short_is_refused(self, core: Core, code: int, size: int) -> None:
        controller = core.controller()
        for length in range(size):
            assert controller.request(code, bytes(length), 64)[0] == INFO_LENGTH_MISMATCH

    def test_half_a_target_is_refused(self, core: Core) -> None:
        assert core.controller().request(protocol.ALLOW, bytes(24), 64)[0] == INFO_LENGTH_MISMATCH

    @pytest.mark.parametrize(
        ("code", "data", "size"),
        [
            (protocol.INFO, 0, 240),
            (protocol.FETCH, 0, 16),
            (protocol.LIST, 8, 16),
            (protocol.ALLOW, 16, 4),
            (protocol.BLOCK, 64, 16),
        ],
    )
    def test_an_output_that_is_too_small_is_refused(self, core: Core, code: int, data: int, size: int) -> None:
        controller = core.controller()
        for room in range(size):
            assert controller.request(code, bytes(data), room)[0] == BUFFER_TOO_SMALL
        assert controller.request(code, bytes(data), size)[0] == SUCCESS

    def test_too_many_targets_are_refused(self, core: Core) -> None:
        controller = core.controller()
        assert controller.request(protocol.ALLOW, bytes(16 * 4096), 4 * 4096)[0] == SUCCESS
        assert controller.request(protocol.ALLOW, bytes(16 * 4097), 4 * 4097)[0] == INVALID_PARAMETER

    @pytest.mark.parametrize("overlap", [True, False])
    def test_input_and_output_may_be_one_buffer(self, core: Core, overlap: bool) -> None:
        controller = core.controller()
        for pid in range(8, 408, 4):
            core.held(pid)
        records = controller.fetch().records
        data = protocol.encode_targets([(record.pid, record.start_key) for record in records])
        status, reply = controller.request(protocol.ALLOW, data, 400, overlap=overlap)
        assert status == SUCCESS and reply == bytes(400)
        assert all(held.verdict() == protocol.VERDICT_ALLOW for held in list(core.holds))
        status, reply = controller.request(
            protocol.LIST, protocol.encode_list(records[9].start_key), 300, overlap=overlap
        )
        assert protocol.decode_records(reply).records[0].pid == records[10].pid

    def test_replies_hold_no_byte_of_anything_else(self, core: Core) -> None:
        controller = core.controller()
        core.held(44, TOOL + "x", command_line="abc")
        reply = controller.must(protocol.FETCH, room=1000)
        again = protocol.encode_records(protocol.decode_records(reply))
        assert reply == again, "padding or reserved fields are not zero"
        info = controller.must(protocol.INFO, room=400)
        assert info[protocol.INFO_REPLY.offsets["reserved"] :][:4] == bytes(4) and info[-24:] == bytes(24)


class Test13OlderKernels:
    def test_info_tells_the_features(self, core: Core) -> None:
        assert core.opened().info()["features"] == protocol.FEATURE_CREATE_EX
        core.dll.gate_set_features(core.host, protocol.FEATURE_DEBUG_BUILD)
        assert core.opened().info()["features"] == protocol.FEATURE_DEBUG_BUILD

    def test_a_rule_refuses_the_creation_where_the_kernel_can(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.BLOCK))
        assert core.create(44, native_name=TOOL, refusable=True)
        [record] = controller.fetch().records
        assert (record.state, record.decided_by) == (protocol.STATE_EXITING, protocol.BY_RULE)
        assert record.flags & protocol.FLAG_NEVER_STARTED and record.exit_status == protocol.STATUS_BLOCKED
        assert controller.records() == {} and controller.info()["rule_blocked"] == 1

    def test_where_it_cannot_the_rule_waits_for_the_image(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.BLOCK))
        assert not core.create(44)
        held = core.image(44, TOOL)
        assert held is not None and held.waits()
        assert core.work() == [44] and held.verdict() == protocol.VERDICT_BLOCK
        info = controller.info()
        assert (info["rule_blocked"], info["held"]) == (1, 0)
        assert [r.decided_by for r in controller.fetch().records] == [protocol.BY_RULE]

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
        good = protocol.encode_rules([("c:\\b.exe", Verdict.BLOCK), ("c:\\c.exe", Verdict.BLOCK)])
        bad = [good[:cut] for cut in range(8, len(good))]
        for offset, value in ((0, 1), (0, 3), (4, 1), (8, 48), (12, 0), (12, 3), (16, 15), (16, 0), (20, 1)):
            bad.append(good[:offset] + bytes([value]) + good[offset + 1 :])
        for data in [*bad, good + bytes(8)]:
            assert controller.request(protocol.SET_RULES, data)[0] == INVALID_PARAMETER, data
        assert controller.info()["rule_count"] == 1
        assert controller.request(protocol.SET_RULES, good)[0] == SUCCESS and controller.info()["rule_count"] == 2
        assert controller.set_rules() == SUCCESS and controller.info()["rule_count"] == 0
