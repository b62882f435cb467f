"""The core's part of points 11 to 13 of the handshake in docs/design.md: one class for each point."""

import pytest

from core.harness import (
    BUFFER_TOO_SMALL,
    INFO_LENGTH_MISMATCH,
    INVALID_DEVICE_REQUEST,
    INVALID_DEVICE_STATE,
    INVALID_PARAMETER,
    SUCCESS,
    SYSTEM32,
    TOOL,
    Core,
)
from procmon.driver import protocol
from procmon.records import Verdict


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

    @pytest.mark.fault(
        "memory runs out",
        gate="driver, core",
        held="is held with the reserve's memory; gets on_limit when that is used up",
        told="-",
        counted="allocation_failures",
        written="-",
    )
    def test_without_memory_a_process_is_held_from_the_reserve(self, core: Core) -> None:
        controller = core.controller()
        core.fail_allocation(1, forever=True)
        core.create(44, command_line="a b", native_name=TOOL)
        held = core.image(44, TOOL)
        core.fail_allocation(0)
        assert held is not None and held.waits()
        [record] = controller.fetch().records
        assert record.image_name == "c:\\tools\\a.exe" and record.flags == protocol.FLAG_COMMAND_LINE_TRUNCATED
        info = controller.info()
        assert (info["reserve_used"], info["allocation_failures"], info["created"]) == (1, 1, 1)

    def test_the_reserve_is_given_back(self, core: Core) -> None:
        controller = core.controller()
        for round in range(3 * protocol.RESERVE_RECORDS):
            core.fail_allocation(1, forever=True)
            core.create(44)
            held = core.image(44, TOOL)
            core.fail_allocation(0)
            assert held is not None, round
            controller.allow(*controller.fetch().records)
            held.verdict()
            core.exit(44)
            controller.fetch()

    def test_a_name_that_the_reserve_cannot_hold_is_a_limit(self, core: Core) -> None:
        controller = core.controller(on_limit=Verdict.BLOCK)
        core.create(44)
        core.fail_allocation(1, forever=True)
        held = core.image(44, TOOL + "x" * 1024)
        core.fail_allocation(0)
        assert held is not None and core.work() == [44]
        held.verdict()
        assert controller.records()[44].decided_by == protocol.BY_LIMIT

    def test_behind_the_reserve_a_creation_is_refused_or_runs_as_asked(self, core: Core) -> None:
        controller = core.controller()
        core.use_up_the_reserve()
        core.fail_allocation(1, forever=True)
        assert not core.create(44, native_name=TOOL, refusable=True)
        assert core.image(44, TOOL, own=True) is None
        assert controller.info()["limit_allowed"] == 1
        controller.register(event=controller.event, on_limit=Verdict.BLOCK)
        assert core.create(48, native_name=TOOL, refusable=True)
        assert not core.create(52, native_name=SYSTEM32 + "csrss.exe", refusable=True)
        core.fail_allocation(0)
        assert controller.info()["limit_blocked"] == 1

    def test_behind_the_reserve_a_new_process_is_ended_without_a_record(self, core: Core) -> None:
        """Its creation could not be refused: an old kernel, or no controller."""
        controller = core.controller(on_limit=Verdict.BLOCK)
        core.use_up_the_reserve()
        core.fail_allocation(1, forever=True)
        core.create(44)
        assert core.image(44, TOOL) is None, "it may have run for long"
        held = core.image(44, TOOL, own=True)
        core.fail_allocation(0)
        assert held is not None and held.waits()
        assert core.work() == [44]
        assert held.verdict() == protocol.VERDICT_BLOCK
        assert controller.info()["limit_blocked"] == 1 and 44 not in controller.records()

    @pytest.mark.parametrize("verdict", [Verdict.ALLOW, Verdict.BLOCK])
    def test_no_memory_for_a_name_is_answered_by_the_limit_verdict(self, core: Core, verdict: Verdict) -> None:
        controller = core.controller(on_limit=verdict)
        core.create(44)
        core.use_up_the_reserve()
        core.fail_allocation(1, forever=True)
        held = core.image(44, TOOL)
        core.fail_allocation(0)
        assert (held is not None) == (verdict is Verdict.BLOCK)
        record = controller.records()[44]
        assert (record.decided_by, record.flags) == (protocol.BY_LIMIT, protocol.FLAG_NAME_MISSING)
        assert core.work() == ([44] if held else [])

    @pytest.mark.fault(
        "the table of processes is full",
        gate="driver, core",
        held="gets on_limit",
        told="-",
        counted="table_full",
        written="-",
    )
    def test_a_full_table_is_answered_by_the_limit_verdict(self, core: Core) -> None:
        controller = core.controller(900_000, on_limit=Verdict.BLOCK)
        for pid in range(8, 8 + protocol.MAX_RECORDS):
            core.dll.gate_on_create(core.host, pid, 0, 0, 0, 1, None, 0, None, 0, 0, 0, 0)
        assert core.create(200_000, native_name=TOOL, refusable=True)
        assert not core.create(200_004, native_name=SYSTEM32 + "services.exe", refusable=True)
        assert controller.info()["limit_blocked"] == 1 and controller.info()["table_full"] == 2

    def test_a_full_table_lets_the_process_pass_and_gives_up_exit_records_first(self, core: Core) -> None:
        controller = core.controller(900_000)
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        core.create(5)
        assert core.image(5, TOOL) is None
        core.exit(5)
        assert controller.info()["record_count"] == 1
        for pid in range(8, 8 + protocol.MAX_RECORDS - 1):
            core.dll.gate_on_create(core.host, pid, 0, 0, 0, 1, None, 0, None, 0, 0, 0, 0)
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
        assert held.waits(dying=True)  # until the worker has terminated the whole process
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
        assert held is not None  # a second thread could run on alone: the worker ends the process
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
        "code", [protocol.FETCH, protocol.ALLOW, protocol.BLOCK, protocol.RESET, protocol.SET_RULES]
    )
    def test_what_is_the_controllers_is_refused_to_others(self, core: Core, code: int) -> None:
        core.controller()
        assert core.opened().request(code, bytes(32), 64)[0] == INVALID_DEVICE_STATE

    @pytest.mark.parametrize("code", [0, 1, protocol.INFO + 1, protocol.QUIESCE + 4, protocol.NOTE_CREATED, 0xFFFFFFFF])
    def test_unknown_requests_are_refused(self, core: Core, code: int) -> None:
        assert core.controller().request(code, bytes(64), 64)[0] == INVALID_DEVICE_REQUEST

    @pytest.mark.parametrize(
        ("code", "size"),
        [
            (protocol.REGISTER, 40),
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
            (protocol.INFO, 0, protocol.INFO_REPLY.size),
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

    @pytest.mark.promise("A reply contains no stray bytes: padding and reserved fields are zero", gate="driver, core")
    def test_replies_hold_no_byte_of_anything_else(self, core: Core) -> None:
        controller = core.controller()
        core.held(44, TOOL + "x", command_line="abc")
        reply = controller.must(protocol.FETCH, room=1000)
        again = protocol.encode_records(protocol.decode_records(reply))
        assert reply == again, "padding or reserved fields are not zero"
        info = controller.must(protocol.INFO, room=400)
        assert info[-32:] == bytes(32)


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

    def test_rules_that_can_never_act_are_named(self, core: Core) -> None:
        controller = core.controller()
        rules = [
            ("c:\\windows\\system32\\csrss.exe", Verdict.BLOCK),
            ("c:\\tools\\a.exe", Verdict.BLOCK),
            (SYSTEM32 + "LSASS.exe", Verdict.ALLOW),
            ("c:\\windows\\system32\\conhost.exe", Verdict.BLOCK),
            ("C:/Tools/A.exe", Verdict.ALLOW),
            ("d:\\windows\\system32\\csrss.exe", Verdict.BLOCK),
        ]
        assert controller.inert_rules(*rules) == [0, 2, 4]
        assert controller.info()["rule_count"] == len(rules)
        assert controller.inert_rules() == []

    def test_the_reply_names_as_many_as_there_is_room_for_and_counts_all(self, core: Core) -> None:
        controller = core.controller()
        data = protocol.encode_rules([("c:\\a.exe", Verdict.ALLOW)] * 5)
        reply = controller.must(protocol.SET_RULES, data, 8 + 4 * 2)
        assert protocol.RULES_REPLY.unpack(reply) == {"count": 4, "listed": 2}
        assert protocol.decode_rules(reply) == [1, 2]

    def test_as_many_equal_rules_as_there_can_be_cost_no_more_than_others(self, core: Core) -> None:
        """Each was compared with all before it, for minutes, in a thread that cannot be ended."""
        controller = core.controller()
        data = protocol.encode_rules([("c:\\" + "x" * 100, Verdict.ALLOW)] * protocol.MAX_RULES)
        reply = controller.must(protocol.SET_RULES, data, 8)
        assert protocol.RULES_REPLY.unpack(reply) == {"count": protocol.MAX_RULES - 1, "listed": 0}

    def test_malformed_rules_leave_the_old_ones_in_force(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        good = protocol.encode_rules([("c:\\b.exe", Verdict.BLOCK), ("c:\\c.exe", Verdict.BLOCK)])
        bad = [good[:cut] for cut in range(8, len(good))]
        for offset, value in ((0, 1), (0, 3), (4, 1), (8, 48), (12, 0), (12, 3), (16, 15), (16, 0), (20, 1)):
            bad.append(good[:offset] + bytes([value]) + good[offset + 1 :])
        for data in [*bad, good + bytes(8)]:
            assert controller.request(protocol.SET_RULES, data, 16)[0] == INVALID_PARAMETER, data
        assert controller.info()["rule_count"] == 1
        assert controller.request(protocol.SET_RULES, good, 16)[0] == SUCCESS and controller.info()["rule_count"] == 2
        assert controller.set_rules() == SUCCESS and controller.info()["rule_count"] == 0
