"""The rows of the table of faults for the core itself, on a system whose clock and memory the test controls."""

import pytest

from core.harness import SUCCESS, TOOL, Core
from procmon.driver import protocol


@pytest.mark.fault(
    "FETCH has a buffer of each size from 0 to two records",
    gate="driver, core",
    held="stays held",
    told="the size of the next record; each record once",
    counted="-",
    written="-",
)
def test_no_size_of_a_buffer_loses_a_record(core: Core) -> None:
    controller = core.controller()
    core.held(44, TOOL + "a")
    whole = len(controller.must(protocol.LIST, protocol.encode_list(0), 1 << 20))
    controller.fetch()
    for room in range(2 * whole + 1):
        core.held(100_000 + 4 * room, TOOL + "b" * (room % 7))
        got = []
        if room >= protocol.RECORDS_HEADER.size:
            got = [record.pid for record in controller.fetch(room).records]
        got += [record.pid for record in controller.fetch().records]
        assert 100_000 + 4 * room in got and len(got) == len(set(got)), room


@pytest.mark.fault(
    "2,000 processes are held at once",
    gate="driver, core",
    held="each gets its own verdict",
    told="each record once",
    counted="held, allowed, blocked",
    written="-",
)
def test_two_thousand_are_held_at_once(core: Core) -> None:
    controller = core.controller()
    for number in range(2000):
        core.held(4000 + 4 * number)
    records: list[protocol.Record] = []
    while reply := controller.fetch().records:
        records += reply
    assert len({record.pid for record in records}) == 2000
    results = [*controller.allow(*records[:1000]), *controller.block(*records[1000:])]
    assert results == [protocol.RESULT_DONE] * 2000
    info = controller.info()
    assert (info["held"], info["allowed"], info["blocked"]) == (2000, 1000, 1000)


@pytest.mark.fault(
    "a request has no verdict, or more than its limit",
    gate="driver, core",
    held="stays held",
    told="an error for none; one result for each, in order",
    counted="-",
    written="-",
)
def test_a_request_takes_no_target_and_as_many_as_its_limit(core: Core) -> None:
    controller = core.controller()
    core.held(44)
    (record,) = controller.fetch().records
    assert controller.request(protocol.ALLOW, b"", 0)[0] != SUCCESS
    many = [(record.pid, record.start_key + 1 + number) for number in range(protocol.MAX_TARGETS - 1)]
    results = controller.allow(*many, record)
    assert results == [protocol.RESULT_STALE] * (protocol.MAX_TARGETS - 1) + [protocol.RESULT_DONE]
