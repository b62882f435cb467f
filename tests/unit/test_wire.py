"""protocol.py: encoded data decodes to the same values, and no input causes worse than a ValueError."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmon import ALLOW, BLOCK, DEFER, DecidedBy, ProcessFlags, VerdictResult
from procmon.driver import protocol, wine_notes
from procmon.driver.info import DriverCounters, DriverFeatures, DriverInfo
from procmon.driver.layout import Layout
from procmon.util.filetime import from_filetime, to_filetime
from procmon.util.paths import lowercase

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
# The content of any UTF-16 buffer of the kernel, lone surrogates too, as Python reads it.
kernel_text = st.binary(max_size=60).map(lambda data: data[: len(data) // 2 * 2].decode("utf-16-le", "surrogatepass"))
numbers = dict.fromkeys(protocol._RECORD_NUMBERS, u32) | {
    "start_key": u64,
    "created": st.integers(-(2**63), 2**63 - 1),
    "exited": st.integers(-(2**63), 2**63 - 1),
}
records = st.builds(protocol.Record, **numbers, **dict.fromkeys(protocol._RECORD_TEXTS, kernel_text))
replies = st.builds(protocol.Records, st.lists(records, max_size=5).map(tuple), u32, u64)


def info_bytes(**values: int) -> bytes:
    fields = dict.fromkeys(protocol.INFO_REPLY.unpack(bytes(protocol.INFO_REPLY.size)), 0)
    counters = dict.fromkeys(protocol.COUNTERS.unpack(bytes(protocol.COUNTERS.size)), 0)
    fields |= {"size": protocol.INFO_REPLY.size, "version": protocol.VERSION}
    fields |= {name: value for name, value in values.items() if name in fields}
    counters |= {name: value for name, value in values.items() if name in counters}
    head = protocol.INFO_REPLY.pack(**fields)[: protocol.INFO_REPLY.offsets["counters"]]
    return head + protocol.COUNTERS.pack(**counters)


@given(replies)
def test_records_come_back_as_they_were_written(reply: protocol.Records) -> None:
    data = protocol.encode_records(reply)
    assert protocol.decode_records(data) == reply
    assert len(data) % 8 == 0


@given(records)
def test_every_record_makes_a_process_whatever_its_numbers_say(record: protocol.Record) -> None:
    process = record.process()
    assert process.identity == (record.pid, record.start_key)
    assert process.paused == (record.state == protocol.STATE_HELD)
    assert int(process.flags) == record.flags
    repr(process), process.as_dict()


@given(replies)
def test_a_reply_read_in_one_step_is_the_same(reply: protocol.Records) -> None:
    read = protocol.decode_processes(protocol.encode_records(reply))
    expected = [record.process() for record in reply.records]
    assert [process.as_dict() for process in read.processes] == [process.as_dict() for process in expected]
    assert (read.needed_bytes, read.next_key) == (reply.needed_bytes, reply.next_key)


@given(replies, st.data())
def test_a_damaged_reply_is_refused_in_one_step_as_in_two(reply: protocol.Records, data: st.DataObject) -> None:
    whole = bytearray(protocol.encode_records(reply))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))

    def outcome(decode: Callable[[bytes], object]) -> str:
        try:
            decode(bytes(whole))
        except ValueError as error:
            return str(error)
        return ""

    assert outcome(protocol.decode_processes) == outcome(protocol.decode_records)


@given(replies)
def test_a_reply_cut_at_any_byte_is_refused(reply: protocol.Records) -> None:
    data = protocol.encode_records(reply)
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"\d"):
            protocol.decode_records(data[:length])
    with pytest.raises(ValueError, match=rf"{len(data) + 8} bytes should have {len(data)}"):
        protocol.decode_records(data + bytes(8))


@pytest.mark.parametrize(
    "decode",
    [
        protocol.decode_records,
        protocol.Record.unpack,
        protocol.decode_version,
        wine_notes.decode_note_created,
        wine_notes.decode_note_image,
        protocol.decode_rules,
        DriverInfo.unpack,
        lambda data: protocol.decode_answers(data, 2),
        *(layout.unpack for layout in protocol.LAYOUTS.values()),
    ],
)
@given(noise=st.binary(max_size=400))
def test_noise_is_read_or_is_a_value_error(decode: Callable[[bytes], object], noise: bytes) -> None:
    try:
        decode(noise)
    except ValueError as error:
        assert str(error)


@given(record=records, at=st.integers(0, 10_000), bits=st.integers(1, 255))
def test_a_record_with_one_wrong_byte_is_read_or_is_a_value_error(record: protocol.Record, at: int, bits: int) -> None:
    data = bytearray(protocol.encode_records(protocol.Records((record,))))
    data[at % len(data)] ^= bits
    try:
        [process.process() for process in protocol.decode_records(bytes(data)).records]
    except ValueError as error:
        assert str(error)


def test_a_wrong_size_names_both_sizes() -> None:
    with pytest.raises(ValueError, match="RecordsHeader needs 16 bytes, and 15 are there"):
        protocol.decode_records(bytes(15))
    with pytest.raises(ValueError, match="3 results need 12 bytes, and 8 are there"):
        protocol.decode_answers(bytes(8), 3)
    with pytest.raises(ValueError, match="8 bytes, and 7 are there"):
        wine_notes.decode_note_image(bytes(7))
    record = protocol.Record(pid=4, start_key=1, image_name="c:\\a.exe").pack()
    with pytest.raises(ValueError, match=f"needs {len(record)} bytes, and {len(record) - 1} are there"):
        protocol.Record.unpack(record[:-1])


@given(st.lists(st.tuples(u32, u64), max_size=20))
def test_targets_hold_every_identity_in_order(identities: list[tuple[int, int]]) -> None:
    data = protocol.encode_targets(identities)
    fields = [protocol.TARGET.unpack(data, at) for at in range(0, len(data), protocol.TARGET.size)]
    assert [(target["pid"], target["start_key"]) for target in fields] == identities


def test_too_many_targets_or_rules_are_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="4097 processes .* takes 4096"):
        protocol.encode_targets([(4, 1)] * 4097)
    with pytest.raises(ValueError, match="65537 rules; the driver takes 65536"):
        protocol.encode_rules((f"c:\\{n}", ALLOW) for n in range(65537))
    with pytest.raises(ValueError, match="the driver takes 16777216"):
        protocol.encode_rules([("x" * 32767, BLOCK)] * 300)


def test_rules_are_lowercase_padded_and_in_order() -> None:
    data = protocol.encode_rules([("C:/Tools/Ä.EXE", BLOCK), (r"\Device\X", ALLOW)])
    assert protocol.RULES_HEADER.unpack(data) == {"count": 2}
    first = protocol.RULE_HEADER.unpack(data, 8)
    text = data[24 : 24 + first["path_bytes"]].decode("utf-16-le")
    assert (text, first["verdict"], first["size"]) == ("c:\\tools\\ä.exe", protocol.VERDICT_BLOCK, 16 + 32)
    second = protocol.RULE_HEADER.unpack(data, 8 + first["size"])
    assert second["verdict"] == protocol.VERDICT_ALLOW and len(data) == 8 + first["size"] + second["size"]


def test_the_rules_that_can_never_act_are_read() -> None:
    reply = protocol.RULES_REPLY.pack(count=3, listed=2) + bytes([1, 0, 0, 0, 5, 0, 0, 0])
    assert protocol.decode_rules(reply) == [1, 5]
    with pytest.raises(ValueError, match="2 rules has 16 bytes, and 12 are there"):
        protocol.decode_rules(reply[:-4])


@pytest.mark.parametrize(("path", "verdict"), [("", ALLOW), ("x" * 32768, ALLOW), ("c:\\a", DEFER)])
def test_a_rule_that_the_driver_would_refuse_is_refused_here(path: str, verdict: object) -> None:
    with pytest.raises(ValueError, match="rule 1"):
        protocol.encode_rules([(path, verdict)])  # type: ignore[list-item]


def test_register_has_the_given_options() -> None:
    data = protocol.encode_register(0xFFFF_FFFF_0000_0044, hold_timeout_ms=60_000, on_timeout=BLOCK, flags=1)
    assert protocol.REGISTER_REQUEST.unpack(data) == {
        "version": protocol.VERSION,
        "flags": 1,
        "event": 0xFFFF_FFFF_0000_0044,
        "hold_timeout_ms": 60_000,
        "timeout_verdict": protocol.VERDICT_BLOCK,
        "disconnect_verdict": protocol.VERDICT_ALLOW,
        "limit_verdict": protocol.VERDICT_ALLOW,
        "tamper_verdict": protocol.VERDICT_BLOCK,
        "pico_verdict": protocol.VERDICT_ALLOW,
    }
    with pytest.raises(ValueError, match="on_disconnect must be ALLOW or BLOCK"):
        protocol.encode_register(1, on_disconnect=DEFER)
    for name in ("on_limit", "on_tamper", "on_pico"):
        with pytest.raises(ValueError, match=f"{name} must be ALLOW or BLOCK"):
            protocol.encode_register(1, **{name: DEFER})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="RegisterRequest"):
        protocol.encode_register(1, hold_timeout_ms=2**32)


def test_results_are_answers_and_those_of_a_newer_driver_count_as_unknown() -> None:
    data = b"".join(code.to_bytes(4, "little") for code in (0, 1, 2, 3, 4, 99))
    known = [
        VerdictResult.DONE,
        VerdictResult.UNKNOWN,
        VerdictResult.STALE,
        VerdictResult.ANSWERED,
        VerdictResult.NOT_HELD,
    ]
    assert protocol.decode_answers(data, 6) == [*known, VerdictResult.UNKNOWN]


def test_a_held_record_becomes_a_paused_process_with_all_its_facts() -> None:
    process = protocol.Record(
        pid=1234,
        start_key=9,
        created=132_223_104_000_000_000,
        parent_pid=4,
        creator_pid=8,
        creator_tid=12,
        state=protocol.STATE_HELD,
        flags=protocol.FLAG_SEEN | protocol.FLAG_NAME_NATIVE | 0x8000_0000,
        hold_left_ms=1500,
        image_name="\\device\\x\\a.exe",
        native_name="\\Device\\X\\A.exe",
        command_line="a -b",
        creation_name="\\Device\\X\\B.exe",
        signature_level=6,
    ).process()
    assert process.paused and process.seen and not process.exited
    assert process.created == datetime(2020, 1, 1, tzinfo=UTC)
    assert (process.creator_pid, process.creator_tid, process.command_line) == (8, 12, "a -b")
    assert process.flags == ProcessFlags.SEEN | ProcessFlags.NAME_NATIVE | ProcessFlags(0x8000_0000)
    assert (process.creation_name, process.signature_level) == ("\\Device\\X\\B.exe", 6)
    assert process.hold_left == 1.5 and process.verdict is None and process.exit_status is None


def test_what_is_not_known_is_none() -> None:
    process = protocol.Record(pid=4, start_key=1, state=77, verdict=9, decided_by=99, created=-5).process()
    unknown = (process.created, process.creator_pid, process.creator_tid, process.command_line, process.native_name)
    assert unknown == (None,) * 5
    assert (process.creation_name, process.signature_level, process.exited_at) == (None, None, None)
    assert (process.verdict, process.decided_by, process.hold_left) == (None, None, None)


def test_an_exited_record_has_its_status_and_who_decided() -> None:
    blocked = protocol.Record(
        pid=4,
        start_key=1,
        state=protocol.STATE_EXITING,
        verdict=protocol.VERDICT_BLOCK,
        decided_by=protocol.BY_RULE,
        exit_status=protocol.STATUS_BLOCKED,
        created=132_223_104_000_000_000,
        exited=132_223_104_025_000_000,
    ).process()
    assert blocked.lifetime == 2.5
    assert (blocked.exited, blocked.exit_status) == (True, 0xC0000364)
    assert (blocked.verdict, blocked.decided_by) == (BLOCK, DecidedBy.GATE_RULE)


@given(st.datetimes(min_value=datetime(1601, 1, 1, 0, 0, 1)).map(lambda moment: moment.replace(tzinfo=UTC)))
def test_times_come_back_to_the_microsecond(moment: datetime) -> None:
    assert from_filetime(to_filetime(moment)) == moment


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_filetime_is_a_time_or_none(ticks: int) -> None:
    moment = from_filetime(ticks)
    assert moment is None or to_filetime(moment) == ticks // 10 * 10


def test_times_need_a_zone_and_keep_the_instant() -> None:
    there = datetime(2020, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert from_filetime(to_filetime(there)) == datetime(2020, 1, 1, tzinfo=UTC)
    assert to_filetime(None) == 0
    with pytest.raises(ValueError, match="no time zone"):
        to_filetime(datetime(2020, 1, 1))


@given(st.text())
def test_lowercase_keeps_the_length(path: str) -> None:
    assert len(lowercase(path)) == len(path)


@given(u32, kernel_text, kernel_text)
def test_notes_carry_their_texts(pid: int, line: str, name: str) -> None:
    data = wine_notes.encode_note_created(pid, 4, command_line=line, native_name=name)
    fields = protocol.NOTE_CREATED_REQUEST.unpack(data)
    texts = data[protocol.NOTE_CREATED_REQUEST.size :]
    assert texts[: fields["command_line_bytes"]].decode("utf-16-le", "surrogatepass") == line
    assert texts[fields["command_line_bytes"] :].decode("utf-16-le", "surrogatepass") == name
    image = wine_notes.encode_note_image(pid, name)
    assert image[protocol.NOTE_IMAGE_REQUEST.size :].decode("utf-16-le", "surrogatepass") == name


def test_info_is_read_and_a_longer_one_too() -> None:
    data = info_bytes(features=0x8000_0002, controller_pid=44, held_count=2, blocked=3, exits_lost=1)
    info = DriverInfo.unpack(data)
    assert info.counters == DriverCounters(blocked=3, exits_lost=1)
    assert info.features == DriverFeatures.NOTE_REQUESTS | DriverFeatures(0x8000_0000)
    assert repr(info) == "<DriverInfo 2.0: controller 44, 2 held, 0 processes known, 0 rules>"
    assert info.on_tamper is None and not info.quiesced
    values = {"timeout_verdict": 1, "tamper_verdict": 2, "register_flags": protocol.REPORT_EXITS, "text_bytes": 7}
    info = DriverInfo.unpack(info_bytes(**values))
    assert (info.on_timeout, info.on_tamper, info.on_limit) == (ALLOW, BLOCK, None)
    assert (info.report_exits, info.exempt_descendants, info.text_bytes) == (True, False, 7)
    assert repr(DriverInfo.unpack(info_bytes(quiesced=1))).startswith("<DriverInfo 2.0: being stopped")
    info = DriverInfo.unpack(data)
    longer = len(data) + 8
    assert DriverInfo.unpack(longer.to_bytes(4, "little") + data[4:] + bytes(8)) == info
    for length in range(len(data)):
        with pytest.raises(ValueError):
            DriverInfo.unpack(data[:length])


def test_the_version_is_found_whatever_follows() -> None:
    assert protocol.version_text(protocol.decode_version(info_bytes(version=0x0007_0003)[:8])) == "7.3"
    with pytest.raises(ValueError, match="8 bytes, and 7 are there"):
        protocol.decode_version(bytes(7))


@pytest.mark.parametrize("layout", protocol.LAYOUTS.values(), ids=lambda layout: layout.name)
def test_layouts_are_naturally_aligned_like_the_header(layout: Layout) -> None:
    assert layout.size % 4 == 0
    assert list(layout.offsets.values()) == sorted(layout.offsets.values())
