"""Memory: failures at any moment, the cost of a process, and that nothing is ever left behind."""

import pytest

from core.harness import INSUFFICIENT_RESOURCES, SUCCESS, TOOL, Core
from procmon.driver import protocol
from procmon.records import Verdict


def scenario(core: Core, started: int) -> set[str]:
    """Some of every call. Return the failures. Whatever fails, no process stays held and nothing is left behind."""
    if started != SUCCESS:
        return {"start"}
    failed = set()
    controller = core.opened(1000)
    assert (
        controller.register(hold_timeout_ms=1000, flags=protocol.REPORT_EXITS | protocol.EXEMPT_DESCENDANTS) == SUCCESS
    )
    for rules in ((("c:\\tools\\b.exe", Verdict.BLOCK),), (("c:\\tools\\c.exe", Verdict.ALLOW),) * 3):
        status = controller.set_rules(*rules)
        assert status in (SUCCESS, INSUFFICIENT_RESOURCES)
        failed |= {"rules"} if status else set()
    core.create(8, running=True, native_name=TOOL)
    for pid, name in enumerate(("A", "B", "C", "D", "E"), 44):
        native = f"\\Device\\HarddiskVolume2\\Tools\\{name}.exe"
        if not core.create(pid, command_line="a b", native_name=native if name in "AB" else "", refusable=name == "B"):
            core.image(pid, native)
    records = {record.pid: record for record in controller.fetch().records}
    for code, pid in ((protocol.ALLOW, 44), (protocol.BLOCK, 47)):
        if pid in records:
            controller.answer(code, [records[pid]])
    core.advance(1000)
    core.work()
    for held in list(core.holds):
        if not held.waits():
            held.end()
    core.work()
    controller.fetch()
    info = controller.info()
    if info["allocation_failures"]:
        failed.add("counted")
    assert info["memory_bytes"] == core.live_bytes
    return failed


def run(n: int, *, forever: bool) -> tuple[set[str], int]:
    core = Core(start=False)
    core.fail_allocation(n, forever=forever)
    failed = scenario(core, core.start())
    asked = int(core.dll.host_allocations(core.host))
    core.fail_allocation(0)
    core.close()  # fails if anything was left behind
    return failed, asked


@pytest.mark.fault(
    "each memory allocation fails, in turn",
    gate="driver, core",
    held="is held, or gets on_limit",
    told="an error for the request",
    counted="allocation_failures",
    written="-",
)
@pytest.mark.parametrize("forever", [False, True], ids=["once", "from there on"])
def test_each_allocation_in_turn_fails_and_each_failure_is_seen_and_harmless(forever: bool) -> None:
    failed, allocations = run(0, forever=False)
    assert failed == set() and allocations > 20
    for n in range(1, allocations + 1):
        failed, _ = run(n, forever=forever)
        assert failed, f"allocation {n} failed without an error"
    assert run(allocations + 1, forever=forever)[0] == set()


def test_a_process_costs_its_record_and_its_names_and_no_more() -> None:
    """As in docs/testing.md: at most 360 bytes for a process, and two for each code unit of its texts."""
    with Core() as core:
        reader = core.opened()
        before = reader.info()["memory_bytes"]
        count = 20_000
        for pid in range(count):
            core.create(pid, native_name=TOOL, command_line="a b")
        texts = 2 * (len("c:\\tools\\a.exe") + len(TOOL) + len("a b"))
        each = (reader.info()["memory_bytes"] - before) / count
        assert texts + 200 < each < texts + 360, f"{each} bytes for a process, {texts} of them texts"
        for pid in range(count):
            core.exit(pid)
        after = reader.info()["memory_bytes"]
        assert after - before <= 4 * 4096, f"{after - before} bytes are kept for exited processes"


def test_processes_that_share_a_bucket_are_told_apart() -> None:
    """Every fourth pid has its own bucket, up to the limit of records; then the buckets repeat."""
    with Core() as core:
        controller = core.controller()
        pids = [first + 4 * protocol.MAX_RECORDS * turn for turn in range(5) for first in range(4000, 4016)]
        for pid in pids:
            core.create(pid)
        keys = {record.pid: record.start_key for record in controller.listing().records}
        assert sorted(keys) == sorted(pids)
        while keys:
            for pid in list(keys)[::3]:
                core.exit(pid)
                del keys[pid]
            assert set(controller.allow(*keys.items()) if keys else []) <= {protocol.RESULT_NOT_HELD}
        info = controller.info()
        assert info["exit_without_create"] == info["unknown_verdicts"] == 0


def test_a_name_is_made_once_for_the_creation_and_its_image() -> None:
    with Core() as core:
        core.controller()

        def allocations() -> int:
            return int(core.dll.host_allocations(core.host))

        before = allocations()
        core.create(44, native_name=TOOL, command_line="a b")
        assert allocations() - before == 3, "a record, names, a command line"
        before = allocations()
        assert core.image(44, TOOL, mapped_name=TOOL)
        assert allocations() == before
        core.create(48, native_name=TOOL)
        assert core.set_volumes({"\\Device\\HarddiskVolume2": "E"}) == SUCCESS
        assert core.image(48, TOOL)
        assert core.opened().records()[48].image_name == "e:\\tools\\a.exe", "drive letters have changed since"


def test_texts_have_a_budget_and_the_oldest_exits_give_way() -> None:
    with Core() as core:
        controller = core.controller(900_000)
        long = "\\Device\\HarddiskVolume2\\" + "x" * 32_000
        each = 2 * (len(long) + len("c:\\" + "x" * 32_000))
        count = protocol.MAX_TEXT_BYTES // each + 50
        for pid in range(4, 4 + 4 * count, 4):
            core.create(pid, native_name=long)
            controller.set_rules(("c:\\" + "x" * 32_000, Verdict.ALLOW))
            assert core.image(pid, long) is None
            core.exit(pid)
            assert controller.info()["text_bytes"] <= protocol.MAX_TEXT_BYTES
        info = controller.info()
        assert info["exits_lost"] >= 50 and info["text_bytes"] > protocol.MAX_TEXT_BYTES - 2 * each
        assert info["memory_bytes"] == core.live_bytes


def test_what_lives_keeps_its_texts_and_the_next_process_is_named_from_the_reserve() -> None:
    with Core() as core:
        controller = core.controller(900_000)
        long = "\\Device\\HarddiskVolume2\\" + "x" * 32_000
        for pid in range(4, 4 + 4 * (protocol.MAX_TEXT_BYTES // (2 * 64_000) + 1), 4):
            core.create(pid, native_name=long)
        full = controller.info()["text_bytes"]
        held = core.held(200_000, TOOL, command_line="x" * 4000)
        [record] = controller.fetch().records
        assert record.image_name == "c:\\tools\\a.exe"
        assert controller.info()["text_bytes"] <= protocol.MAX_TEXT_BYTES and full > 60 << 20
        controller.allow(record)
        held.verdict()
