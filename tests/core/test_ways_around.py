"""Ways around the gate that need more than one notification: extra threads, suspended processes, WSL 1, renamed files.

docs/gates/driver.md has the table of all ways. Tests of ways by descent, exempt programs and limits are in
test_handshake_ends.py and test_handshake_limits.py; those that need a kernel are scenarios of driver/host/kernel.
"""

import pytest

from core.harness import DIED, TOOL, Core, Held
from procmon.driver import protocol
from procmon.records import Verdict

OTHER = "\\Device\\HarddiskVolume2\\Tools\\B.exe"


def some(held: Held | None) -> Held:
    assert held is not None, "it is not held"
    return held


class TestExtraThreads:
    def test_an_extra_thread_waits_for_the_same_verdict(self, core: Core) -> None:
        controller = core.controller()
        first = core.held(44)
        [record] = controller.fetch().records
        extra = some(core.own_thread(44))
        assert extra.waits() and not record.flags & protocol.FLAG_FOREIGN_THREAD
        [again] = controller.fetch().records
        assert again.flags == protocol.FLAG_FOREIGN_THREAD | protocol.FLAG_SEEN and again.state == protocol.STATE_HELD
        assert controller.allow(record) == [protocol.RESULT_DONE]
        assert (first.verdict(), extra.verdict()) == (protocol.VERDICT_ALLOW,) * 2
        assert core.own_thread(44) is None, "it runs now"
        info = controller.info()
        assert (info["held"], info["foreign_threads"], info["held_count"]) == (1, 1, 0)

    def test_all_threads_wait_until_a_blocked_process_is_dead(self, core: Core) -> None:
        controller = core.controller()
        threads = [core.held(44), some(core.own_thread(44)), some(core.own_thread(44))]
        controller.block(controller.records()[44])
        threads.append(some(core.own_thread(44)))  # it arrives late, and must not run either
        assert all(thread.waits() for thread in threads)
        assert core.work() == [44]
        assert [thread.verdict() for thread in threads] == [protocol.VERDICT_BLOCK] * 4

    def test_an_extra_thread_that_comes_before_the_image_is_held_and_so_is_the_first(self, core: Core) -> None:
        controller = core.controller()
        core.create(44, native_name=TOOL)
        extra = some(core.own_thread(44))
        assert extra.waits() and not controller.fetch().records, "its name now is not known yet"
        assert controller.allow(controller.records()[44]) == [protocol.RESULT_NOT_HELD]
        first = some(core.image(44, TOOL, own=True))
        [record] = controller.fetch().records
        assert record.flags == protocol.FLAG_FOREIGN_THREAD and record.image_name == "c:\\tools\\a.exe"
        controller.allow(record)
        assert (first.verdict(), extra.verdict()) == (protocol.VERDICT_ALLOW,) * 2

    def test_a_rule_allows_it_at_its_image_and_not_before(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        core.create(44, native_name=TOOL)
        extra = some(core.own_thread(44))
        assert extra.waits()
        assert core.image(44, TOOL, own=True) is None
        assert extra.verdict() == protocol.VERDICT_ALLOW
        assert controller.fetch().records[0].decided_by == protocol.BY_RULE and controller.info()["held_count"] == 0

    @pytest.mark.parametrize("verdict", [Verdict.ALLOW, Verdict.BLOCK])
    def test_it_is_decided_by_its_name_at_the_image(self, core: Core, verdict: Verdict) -> None:
        """A rule allows the name at creation. For the new one there is a rule that blocks, or none."""
        controller = core.controller()
        blocking = [("c:\\tools\\b.exe", verdict)] if verdict is Verdict.BLOCK else []
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW), *blocking)
        core.create(44, native_name=TOOL)
        extra = some(core.own_thread(44))
        first = some(core.image(44, TOOL, mapped_name=OTHER, own=True))
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_NAME_CHANGED and record.image_name == "c:\\tools\\b.exe"
        assert (record.state == protocol.STATE_HELD) == (verdict is Verdict.ALLOW)
        if verdict is Verdict.ALLOW:
            controller.block(record)
        assert extra.waits() and first.waits()
        assert core.work() == [44]
        assert (first.verdict(), extra.verdict()) == (protocol.VERDICT_BLOCK,) * 2
        assert controller.info()["held_count"] == 0

    def test_without_an_image_it_is_asked_about_after_a_second(self, core: Core) -> None:
        controller = core.controller()
        core.create(44, native_name=TOOL)
        extra = some(core.own_thread(44))
        core.advance(999)
        assert extra.waits() and not controller.fetch().records
        core.advance(1)
        assert extra.waits() and extra.waits()
        [record] = controller.fetch().records
        assert record.image_name == "c:\\tools\\a.exe"
        first = some(core.image(44, TOOL, mapped_name=OTHER, own=True))  # late
        [again] = controller.fetch().records
        assert again.flags & protocol.FLAG_NAME_CHANGED and again.flags & protocol.FLAG_SEEN
        controller.allow(again)
        assert (first.verdict(), extra.verdict()) == (protocol.VERDICT_ALLOW,) * 2

    @pytest.mark.parametrize("notified_in_its_creator", [False, True])
    def test_one_that_is_decided_before_its_controller_is_asked_is_fetched_all_the_same(
        self, core: Core, notified_in_its_creator: bool
    ) -> None:
        controller = core.controller(hold_timeout_ms=500)
        core.create(44, native_name=TOOL)
        extra = some(core.own_thread(44))
        if notified_in_its_creator:
            core.any_thread(44)
        else:
            core.advance(500)
        extra.waits()
        [record] = controller.fetch().records
        wanted = protocol.BY_TAMPER if notified_in_its_creator else protocol.BY_TIMEOUT
        assert record.decided_by == wanted and not record.flags & protocol.FLAG_SEEN
        core.work()
        extra.verdict()

    def test_a_first_thread_that_is_ended_tells_the_name_and_leaves(self, core: Core) -> None:
        controller = core.controller()
        core.create(44, native_name=TOOL)
        extra = some(core.own_thread(44))
        first = some(core.image(44, TOOL, mapped_name=OTHER, own=True, dying=True))
        assert not first.waits(dying=True)
        first.end()
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_NAME_CHANGED and extra.waits()
        controller.allow(record)
        assert extra.verdict() == protocol.VERDICT_ALLOW and controller.info()["died_held"] == 0

    def test_an_exempt_process_and_one_without_a_controller_run_with_all_their_threads(self, core: Core) -> None:
        core.create(44, native_name=TOOL)
        assert core.own_thread(44) is None
        core.controller()
        core.create(48, native_name=TOOL)
        assert core.own_thread(48, protected=True) is None
        assert core.own_thread(52) is None  # it is not known

    def test_a_thread_that_is_ended_alone_leaves_and_the_others_wait_on(self, core: Core) -> None:
        controller = core.controller()
        first = core.held(44)
        extra = some(core.own_thread(44))
        assert not first.waits(dying=True)
        first.end()
        assert extra.waits() and controller.info()["died_held"] == 0
        assert extra.waits(dying=True)  # the last one: now the whole process must end
        assert core.work() == [44]
        extra.verdict()

    def test_of_two_threads_that_are_ended_at_once_the_last_stays_until_all_of_it_is_dead(self, core: Core) -> None:
        core.controller()
        first = core.held(44)
        extra = some(core.own_thread(44))
        assert not first.waits(dying=True)  # it is leaving when the other one checks
        assert extra.waits(dying=True)
        first.end()
        third = some(core.own_thread(44))  # one that was suspended meanwhile must not run either
        assert core.work() == [44]
        assert not core.image(44, TOOL, own=True)
        extra.verdict(), third.verdict()

    def test_a_dying_thread_does_not_wait_at_all(self, core: Core) -> None:
        core.controller()
        core.held(44)
        assert core.own_thread(44, dying=True) is None

    @pytest.mark.parametrize("when", ["new", "held"])
    def test_on_an_older_kernel_the_tamper_verdict_blocks(self, core: Core, when: str) -> None:
        controller = core.controller()
        core.create(44)
        core.any_thread(44)  # the first
        if when == "new":
            core.any_thread(44)
        held = some(core.image(44, TOOL))
        if when == "held":
            assert held.waits()
            core.any_thread(44)
        assert core.work() == [44]
        assert held.verdict() == protocol.VERDICT_BLOCK
        record = controller.records()[44]
        assert record.flags & protocol.FLAG_FOREIGN_THREAD and record.decided_by == protocol.BY_TAMPER

    @pytest.mark.parametrize("on_tamper", [Verdict.ALLOW, Verdict.BLOCK])
    def test_on_an_older_kernel_no_rule_goes_before_the_tamper_verdict(self, core: Core, on_tamper: Verdict) -> None:
        controller = core.controller(on_tamper=on_tamper)
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        core.create(44, native_name=TOOL)
        core.any_thread(44)  # the first
        core.any_thread(44)
        held = core.image(44, TOOL)
        by = protocol.BY_RULE if on_tamper is Verdict.ALLOW else protocol.BY_TAMPER
        assert controller.records()[44].decided_by == by and (held is None) == (on_tamper is Verdict.ALLOW)
        if held:
            assert core.work() == [44] and held.verdict() == protocol.VERDICT_BLOCK

    @pytest.mark.parametrize("when", ["new", "held"])
    def test_on_an_older_kernel_allow_only_marks_and_the_question_is_asked(self, core: Core, when: str) -> None:
        controller = core.controller(on_tamper=Verdict.ALLOW)
        core.create(44)
        core.any_thread(44)
        if when == "new":
            core.any_thread(44)
        held = some(core.image(44, TOOL))
        core.any_thread(44)
        assert held.waits()
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_FOREIGN_THREAD and record.state == protocol.STATE_HELD

    def test_threads_of_a_running_process_are_no_news(self, core: Core) -> None:
        controller = core.controller()
        held = core.held(44)
        controller.allow(controller.records()[44])
        held.verdict()
        core.any_thread(44)
        assert controller.info()["foreign_threads"] == 0


class TestSuspendedBefore:
    def test_a_process_that_was_suspended_before_the_load_is_held_at_its_own_image(self, core: Core) -> None:
        core.create(44, running=True, native_name=TOOL)
        controller = core.controller()
        assert core.image(44, OTHER) is None, "any image may be a library of what runs"
        held = some(core.image(44, TOOL, own=True))
        [record] = controller.fetch().records
        assert record.flags == protocol.FLAG_RUNNING_BEFORE and record.state == protocol.STATE_HELD
        controller.allow(record)
        held.verdict()
        assert core.image(44, TOOL, own=True) is None, "it has run"

    def test_a_controller_that_has_fetched_it_as_running_is_asked_when_it_is_held(self, core: Core) -> None:
        core.create(44, running=True, native_name=TOOL)
        controller = core.controller()
        [running] = controller.fetch().records
        held = some(core.image(44, TOOL, own=True))
        [record] = controller.fetch().records
        assert (running.state, record.state) == (protocol.STATE_NAMED, protocol.STATE_HELD)
        assert record.flags == protocol.FLAG_RUNNING_BEFORE, "and not as seen: that would be no new question"
        controller.allow(record)
        held.verdict()

    def test_a_listed_program_of_windows_must_be_one_that_is_always_exempt(self, core: Core) -> None:
        """Its creator is not known."""
        system32 = "\\Device\\HarddiskVolume2\\Windows\\System32\\"
        core.create(44, running=True, native_name=system32 + "svchost.exe")
        core.create(48, running=True, native_name=system32 + "csrss.exe")
        core.controller()
        assert some(core.image(44, system32 + "svchost.exe", own=True)).waits()
        assert core.image(48, system32 + "csrss.exe", own=True) is None

    def test_one_whose_creation_was_missed_is_held_if_it_shows_that_it_has_not_run(self, core: Core) -> None:
        controller = core.controller()
        assert some(core.image(44, TOOL, own=True)).waits()
        assert controller.fetch().records[0].flags == protocol.FLAG_CREATE_MISSED


class TestPico:
    @pytest.mark.parametrize("verdict", [Verdict.ALLOW, Verdict.BLOCK])
    def test_the_pico_verdict_decides_about_the_creation(self, core: Core, verdict: Verdict) -> None:
        controller = core.controller(on_pico=verdict)
        refused = core.create(44, pico=True, refusable=True)
        assert refused == (verdict is Verdict.BLOCK)
        [record] = controller.fetch().records
        assert record.flags & protocol.FLAG_PICO and record.decided_by == protocol.BY_PICO
        assert bool(record.flags & protocol.FLAG_NEVER_STARTED) == refused
        assert controller.info()["pico_blocked"] == refused

    def test_without_a_controller_it_runs(self, core: Core) -> None:
        assert not core.create(44, pico=True, refusable=True)
        assert core.opened().records()[44].decided_by == protocol.BY_NO_CONTROLLER


class TestNames:
    def test_a_renamed_file_is_told_with_both_names(self, core: Core) -> None:
        controller = core.controller()
        core.create(44, native_name=TOOL)
        held = some(core.image(44, TOOL, mapped_name=OTHER))
        [record] = controller.fetch().records
        assert record.flags == protocol.FLAG_NAME_CHANGED
        assert (record.image_name, record.native_name, record.creation_name) == ("c:\\tools\\b.exe", OTHER, TOOL)
        controller.allow(record)
        held.verdict()

    @pytest.mark.parametrize("path", ["c:\\tools\\a.exe", "c:\\tools\\b.exe"])
    def test_no_rule_allows_it_and_a_rule_about_either_name_blocks_it(self, core: Core, path: str) -> None:
        controller = core.controller()
        controller.set_rules((path, Verdict.ALLOW))
        core.create(44, native_name=TOOL)
        assert some(core.image(44, TOOL, mapped_name=OTHER)).waits()
        controller.set_rules((path, Verdict.BLOCK))
        core.create(48, native_name=TOOL)
        held = some(core.image(48, TOOL, mapped_name=OTHER))
        assert core.work(DIED) == [48]
        held.verdict()

    @pytest.mark.parametrize("path", ["c:\\tools\\a.exe", "c:\\tools\\b.exe"])
    def test_no_rule_allows_a_renamed_file_whose_name_at_creation_is_not_known(self, core: Core, path: str) -> None:
        controller = core.controller()
        controller.set_rules((path, Verdict.ALLOW))
        core.create(44)
        assert some(core.image(44, TOOL, mapped_name=OTHER)).waits()
        [record] = controller.fetch().records
        assert record.flags == protocol.FLAG_NAME_CHANGED
        assert (record.native_name, record.creation_name) == (OTHER, "")

    def test_the_record_has_the_name_at_creation_when_the_system_does_not_give_it_again(self, core: Core) -> None:
        controller = core.controller()
        controller.set_rules(("c:\\tools\\b.exe", Verdict.ALLOW))
        core.create(44, native_name=TOOL)
        assert some(core.image(44, OTHER)).waits()
        [record] = controller.fetch().records
        assert record.flags == protocol.FLAG_NAME_CHANGED
        assert (record.native_name, record.creation_name) == (OTHER, TOOL)

    @pytest.mark.parametrize("on_limit", [Verdict.ALLOW, Verdict.BLOCK])
    def test_without_room_for_its_new_name_the_limit_verdict_decides_and_no_rule(
        self, core: Core, on_limit: Verdict
    ) -> None:
        """The name at creation does not stand for the new one, which is too long for the reserve."""
        controller = core.controller(on_limit=on_limit)
        controller.set_rules(("c:\\tools\\a.exe", Verdict.ALLOW))
        core.create(44, native_name=TOOL)
        core.fail_allocation(1, forever=True)
        held = core.image(44, TOOL, mapped_name="\\Device\\HarddiskVolume2\\" + "x" * 2000)
        core.fail_allocation(0)
        record = controller.records()[44]
        assert record.decided_by == protocol.BY_LIMIT and record.flags == protocol.FLAG_NAME_MISSING
        assert core.work(DIED) == ([44] if on_limit is Verdict.BLOCK else [])
        if held:
            held.verdict()

    @pytest.mark.parametrize("mapped", [TOOL.upper(), "\\Tools\\A.exe", ""])
    def test_another_spelling_is_no_other_name(self, core: Core, mapped: str) -> None:
        controller = core.controller()
        core.create(44, native_name=TOOL)
        assert some(core.image(44, TOOL, mapped_name=mapped)).waits()
        assert controller.records()[44].flags == 0 and controller.records()[44].creation_name == ""

    def test_facts_about_the_file_are_in_the_record(self, core: Core) -> None:
        core.create(44, file_flags=protocol.FLAG_WRITE_OPEN | protocol.FLAG_TRANSACTED, signature_level=8)
        record = core.opened().records()[44]
        assert record.flags == protocol.FLAG_WRITE_OPEN | protocol.FLAG_TRANSACTED and record.signature_level == 8
