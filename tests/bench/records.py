"""What it costs to turn the bytes of a FETCH reply into what callbacks get."""

from collections.abc import Iterator

from procmon.driver import protocol

from .measure import Row, cpu_of, row
from .monitor import processes

COUNT = 2000


def rows() -> Iterator[Row]:
    """Measure."""
    records = tuple(
        protocol.Record(pid=one.pid, start_key=one.start_key, image_name=one.image_name) for one in processes(COUNT)
    )
    reply = protocol.encode_records(protocol.Records(records))
    yield row(
        "FETCH record to ProcessHelper",
        lambda: cpu_of(lambda: protocol.decode_processes(reply).processes),
        lambda: cpu_of(lambda: processes(COUNT)),
        "making the ProcessHelper alone",
        count=COUNT,
        at_most=12,
    )
