"""The handshake of docs/design.md, points 8 to 13, as far as they are the core's: one class for each point."""

import threading
from collections.abc import Iterator

import pytest

from core.harness import (
    BUFFER_TOO_SMALL,
    DEVICE_NOT_READY,
    FAILED,
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


def use_up_the_reserve(core: Core) -> None:
    """Processes come to be while there is no memory, until the reserve is empty."""
    core.fail_allocation(1, forever=True)
    for pid in range(100_000, 100_000 + 4 * protocol.RESERVE_RECORDS, 4):
        core.create(pid, native_name=TOOL)
    core.fail_allocation(0)


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

    @pytest.mark.fault(
        "REGISTER comes from a second handle of the same process",
        gate="driver, core",
        held="stays with the first",
        told="an error for the second",
        counted="-",
        written="-",
    )
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

    def test_what_would_not_die_is_terminated_once_more_and_then_it_runs(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        assert core.work(FAILED) == [44] and core.next_to_terminate() is None
        core.stop()
        assert held.waits(), "released before the last attempt"
        assert core.work(FAILED) == [44]
        assert held.verdict() == protocol.VERDICT_BLOCK

    def test_an_attempt_that_was_under_way_at_the_stop_is_not_the_last(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.block(*controller.fetch().records)
        to_terminate = core.next_to_terminate()
        assert to_terminate
        core.stop()
        core.terminated(to_terminate, FAILED)
        assert held.waits()
        assert core.work() == [44] and held.verdict() == protocol.VERDICT_BLOCK

    @pytest.mark.parametrize(("verdict", "code"), VERDICTS)
    def test_quiesce_gives_all_the_disconnect_verdict_and_holds_nothing_more(
        self, core: Core, verdict: Verdict, code: int
    ) -> None:
        controller = core.controller(on_disconnect=verdict)
        threads = [core.held(pid) for pid in (44, 48)]
        wake_ups = controller.wake_ups()
        core.opened(2000).must(protocol.QUIESCE)
        core.work()
        assert [held.verdict() for held in threads] == [code] * 2
        assert controller.wake_ups() > wake_ups, "its controller waits for the event"
        for request in (protocol.FETCH, protocol.ALLOW, protocol.RESET):
            assert controller.request(request, bytes(16), 100)[0] == DEVICE_NOT_READY
        assert core.opened().register() == DEVICE_NOT_READY
        core.create(52)
        assert core.image(52, TOOL) is None
        info = core.opened().info()
        assert (info["quiesced"], info["controller_pid"], info["disconnects"]) == (1, 0, 0)
        records = core.opened().records()
        assert {records[pid].decided_by for pid in (44, 48)} == {protocol.BY_STOP}
        core.opened().must(protocol.QUIESCE)  # twice is no error
        controller.close()

    def test_a_new_start_undoes_it(self, core: Core) -> None:
        core.opened().must(protocol.QUIESCE)
        core.stop()
        core.dll.gate_destroy(core.host)
        assert core.start() == SUCCESS
        core.controller()
        assert core.held(44).waits()

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
    ALWAYS = ("smss", "csrss", "wininit", "services", "lsass")
    BELOW = (
        ("winlogon", "smss"), ("logonui", "winlogon"), ("dwm", "winlogon"), ("fontdrvhost", "wininit"),
        ("userinit", "winlogon"), ("conhost", "csrss"), ("svchost", "services"), ("WerFault", "svchost"),
        ("wermgr", "svchost"), ("consent", "svchost"), ("sihost", "svchost"), ("WUDFHost", "svchost"),
        ("drvinst", "svchost"),
    )  # fmt: skip

    @pytest.mark.promise("What Windows cannot do without is never held", gate="driver, core")
    @pytest.mark.parametrize("name", ALWAYS)
    def test_what_windows_cannot_do_without_is_never_held(self, core: Core, name: str) -> None:
        controller = core.controller()
        controller.set_rules((f"c:\\windows\\system32\\{name}.exe", Verdict.BLOCK))
        assert not core.create(44, native_name=SYSTEM32 + name + ".exe", refusable=True)
        assert core.image(44, SYSTEM32 + name + ".exe") is None
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_EXEMPT and record.decided_by == protocol.BY_EXEMPT
        assert controller.info()["exempt"] == 1

    @pytest.mark.parametrize(("name", "creator"), BELOW)
    def test_what_windows_needs_is_not_held_below_its_usual_creator(self, core: Core, name: str, creator: str) -> None:
        controller = core.controller()
        controller.set_rules((f"c:\\windows\\system32\\{name}.exe", Verdict.BLOCK))
        core.create(40, native_name=SYSTEM32 + creator + ".exe", running=True)
        assert not core.create(44, creator_pid=40, native_name=SYSTEM32 + name + ".exe", refusable=True)
        assert core.image(44, SYSTEM32 + name + ".exe") is None
        assert controller.records()[44].flags & protocol.FLAG_EXEMPT

    @pytest.mark.parametrize(("name", "creator"), BELOW)
    def test_it_is_held_below_any_other_and_rules_about_it_act(self, core: Core, name: str, creator: str) -> None:
        controller = core.controller()
        core.create(40, native_name=TOOL, running=True)
        core.create(36, native_name="\\Device\\HarddiskVolume2\\Fake\\" + creator + ".exe", running=True)
        path = SYSTEM32 + name + ".exe"
        for pid, below in {44: 40, 48: 36, 52: 0, 56: 4711}.items():
            assert core.held(pid, path, creator_pid=below, parent_pid=below).waits()
            assert not controller.records()[pid].flags & protocol.FLAG_EXEMPT
        controller.set_rules((f"c:\\windows\\system32\\{name}.exe", Verdict.BLOCK))
        assert core.create(60, creator_pid=40, native_name=path, refusable=True)

    def test_a_creator_must_be_genuine_itself(self, core: Core) -> None:
        """A svchost that was started by another program, and allowed, may hold other code: it spares nothing."""
        controller = core.controller()
        core.create(40, native_name=TOOL, running=True)
        svchost = SYSTEM32 + "svchost.exe"
        held = core.held(44, svchost, creator_pid=40)
        controller.allow(controller.records()[44])
        held.verdict()
        assert core.held(48, SYSTEM32 + "consent.exe", creator_pid=44).waits()

    def test_the_chain_from_the_start_of_windows(self, core: Core) -> None:
        core.controller()
        chain = ("smss", "wininit", "services", "svchost", "werfault", "wermgr")
        for pid, name in enumerate(chain, 10):
            core.create(pid, creator_pid=pid - 1, native_name=f"{SYSTEM32}{name}.exe")
            assert core.image(pid, f"{SYSTEM32}{name}.exe") is None, name

    def test_the_creator_counts_when_it_has_gone_before_the_image(self, core: Core) -> None:
        core.controller()
        core.create(40, native_name=SYSTEM32 + "services.exe")
        core.create(44, creator_pid=40)
        core.exit(40)
        assert core.image(44, SYSTEM32 + "svchost.exe") is None

    def test_without_memory_for_a_name_it_is_still_known(self, core: Core) -> None:
        controller = core.controller(on_limit=Verdict.BLOCK)
        core.create(44)
        use_up_the_reserve(core)
        core.fail_allocation(1, forever=True)
        assert core.image(44, SYSTEM32 + "csrss.exe") is None
        core.fail_allocation(0)
        assert controller.records()[44].decided_by == protocol.BY_EXEMPT

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
        core.create(40, native_name=SYSTEM32 + "svchost.exe", running=True)
        core.create(44, creator_pid=40)
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

    @pytest.mark.promise("Exemption goes by the creator, and by nothing that a process can claim", gate="driver, core")
    def test_its_descendants_if_it_asks_for_that(self, core: Core) -> None:
        core.create(1000)
        core.create(1004, creator_pid=1000)  # before it registers
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        for pid, creator_pid in {44: 1000, 48: 44, 52: 48, 56: 1004}.items():
            core.create(pid, parent_pid=4711, creator_pid=creator_pid)  # the parent may be any
            assert core.image(pid, TOOL) is None, pid
            assert core.opened().records()[pid].flags & protocol.FLAG_CONTROLLER_DESCENDANT
        core.exit(44)
        core.exit(48)
        core.create(60, creator_pid=52)
        assert core.image(60, TOOL) is None
        assert core.held(64, creator_pid=4711).waits()

    def test_its_descendants_are_held_and_marked_if_not(self, core: Core) -> None:
        core.create(1000)
        controller = core.controller(1000, flags=0)
        core.held(44, parent_pid=1000, creator_pid=1000)
        assert controller.records()[44].flags == protocol.FLAG_CONTROLLER_DESCENDANT

    def test_a_pid_that_was_the_controllers_own_before_makes_no_descendant(self, core: Core) -> None:
        """On a desktop the explorer's parent is always dead, and the controller can have its pid now."""
        core.create(3000, parent_pid=1000, creator_pid=1000, running=True)
        core.create(1000, parent_pid=4)
        core.image(1000, TOOL)
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        assert core.held(44, parent_pid=3000, creator_pid=3000).waits()

    def test_an_older_process_is_no_descendant_of_a_younger_creator(self, core: Core) -> None:
        core.create(2000)
        core.create(44, creator_pid=2000)
        core.exit(2000)
        core.create(1000)
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        core.create(2000, creator_pid=1000)  # the pid again, by the controller
        assert core.held(48, creator_pid=44).waits()

    def test_a_parent_that_is_only_claimed_makes_no_descendant(self, core: Core) -> None:
        core.create(1000)
        core.create(6666)
        controller = core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        core.create(2000, parent_pid=1000, creator_pid=1000)
        core.image(2000, TOOL)
        assert core.held(44, parent_pid=2000, creator_pid=6666).waits()
        assert controller.records()[44].flags == protocol.FLAG_PARENT_CLAIMED
        assert not controller.records()[2000].flags & protocol.FLAG_PARENT_CLAIMED

    def test_a_controller_without_a_record_has_no_descendants(self, core: Core) -> None:
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        assert core.held(44, creator_pid=1000).waits()

    def test_the_controllers_pid_in_a_new_process_means_that_the_controller_has_gone(self, core: Core) -> None:
        core.create(1000)
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        held = core.held(44)
        core.create(1000, creator_pid=6666)
        held.verdict()
        assert core.opened().info()["controller_pid"] == 0

    def test_descendants_of_an_earlier_controller_are_held(self, core: Core) -> None:
        core.create(1000)
        core.create(2000)
        core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS).close()
        first = core.controller(1000, flags=protocol.EXEMPT_DESCENDANTS)
        core.create(44, creator_pid=1000)
        first.close()
        core.controller(2000, flags=protocol.EXEMPT_DESCENDANTS)
        assert core.held(48, creator_pid=44).waits()


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
        "memory is refused",
        gate="driver, core",
        held="is held from the reserve; gets on_limit behind it",
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
        use_up_the_reserve(core)
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
        """Its creation could not be refused, on an old kernel or without a controller."""
        controller = core.controller(on_limit=Verdict.BLOCK)
        use_up_the_reserve(core)
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
        use_up_the_reserve(core)
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

    @pytest.mark.promise("A reply holds no byte of anything else", gate="driver, core")
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
