"""The core's part of points 8 to 10 of the handshake in docs/design.md: one class for each point."""

import threading

import pytest

from core.harness import (
    DEVICE_NOT_READY,
    FAILED,
    INVALID_DEVICE_STATE,
    SUCCESS,
    SYSTEM32,
    TOOL,
    Core,
)
from patience import PATIENCE
from procmon.driver import protocol
from procmon.records import Verdict

VERDICTS = [(Verdict.ALLOW, protocol.VERDICT_ALLOW), (Verdict.BLOCK, protocol.VERDICT_BLOCK)]


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
        "a second handle of the controller's process sends REGISTER",
        gate="driver, core",
        held="stays with the first controller",
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

    @pytest.mark.parametrize("how", ["reset", "close"])
    def test_the_seen_marks_go_with_the_controller(self, core: Core, how: str) -> None:
        core.create(44, running=True, native_name=TOOL)
        controller = core.controller()
        controller.fetch()
        assert controller.records()[44].flags & protocol.FLAG_SEEN
        if how == "reset":
            controller.must(protocol.RESET)
        else:
            controller.close()
        assert core.opened().records()[44].flags == protocol.FLAG_RUNNING_BEFORE


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
            thread.join(PATIENCE)
            assert not thread.is_alive()


class Test10NeverHeld:
    ALWAYS = ("smss", "csrss", "wininit", "services", "lsass")
    BELOW = (
        ("winlogon", "smss"), ("logonui", "winlogon"), ("dwm", "winlogon"), ("fontdrvhost", "wininit"),
        ("userinit", "winlogon"), ("conhost", "csrss"), ("svchost", "services"), ("WerFault", "svchost"),
        ("wermgr", "svchost"), ("consent", "svchost"), ("sihost", "svchost"), ("WUDFHost", "svchost"),
        ("drvinst", "svchost"),
    )  # fmt: skip

    @pytest.mark.promise("Processes that Windows cannot do without are never held", gate="driver, core")
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
        """A svchost that another program started, and that was allowed, may contain other code: it spares no child."""
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
        core.use_up_the_reserve()
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

    @pytest.mark.promise(
        "Exemption depends on the creator, and on nothing that a process can claim", gate="driver, core"
    )
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
        assert core.image(1004, TOOL) is None
        assert core.opened().records()[1004].flags & protocol.FLAG_CONTROLLER_DESCENDANT

    def test_its_descendants_are_held_and_marked_if_not(self, core: Core) -> None:
        core.create(1000)
        controller = core.controller(1000, flags=0)
        core.held(44, parent_pid=1000, creator_pid=1000)
        assert controller.records()[44].flags == protocol.FLAG_CONTROLLER_DESCENDANT

    def test_a_pid_that_was_the_controllers_own_before_makes_no_descendant(self, core: Core) -> None:
        """On a desktop the explorer's parent has always exited, and the controller can have its pid now."""
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
