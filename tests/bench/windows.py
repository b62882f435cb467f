"""What gates cost on Windows: processes under the debug API, and one hold of the driver."""

import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import procmon
from procmon.driver import notes, protocol
from procmon.driver.info import DEVICE
from procmon.win32.device import Device

from .measure import Row, row, seconds_of

DRIVER = Path(__file__).resolve().parents[2] / "build" / "driver" / "wine" / "procmon.sys"
TREE = ["cmd", "/c", " & ".join(["hostname"] * 10)]


def rows() -> Iterator[Row]:
    """Measure; the driver only where its test build is, which takes notifications by request."""
    yield row(
        "DebugGate: a cmd with ten short children",
        lambda: seconds_of(_gated),
        lambda: seconds_of(lambda: subprocess.run(TREE, stdout=subprocess.DEVNULL, check=True)),
        "the same without a gate",
        count=11,
        turns=5,
    )
    if DRIVER.is_file():
        yield from _driver()


def _gated() -> None:
    gate = procmon.DebugGate.run(TREE, stdout=subprocess.DEVNULL)
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(lambda process: procmon.ALLOW)
        if not monitor.wait(120):
            raise RuntimeError("the command did not end")


def _driver() -> Iterator[Row]:
    service = procmon.DriverService()
    service.install(DRIVER)
    try:
        service.start()
        try:
            with closing(Device(DEVICE)) as notifier:
                yield row(
                    "driver: a start held, decided, released (p50)",
                    lambda: _monitored(notifier),
                    lambda: _by_hand(notifier),
                    "the same by hand: wait, fetch, allow",
                    turns=5,
                    goal="1.05x",
                )
        finally:
            service.stop()
    finally:
        service.delete()


def _monitored(notifier: Device) -> float:
    with procmon.Monitor(procmon.DriverGate()) as monitor:
        monitor.subscribe(lambda process: procmon.ALLOW)
        return _holds(notifier)


def _by_hand(notifier: Device) -> float:
    with procmon.DriverGate() as gate:

        def answer() -> None:
            try:
                while not gate.closed:
                    gate.wait(0.2)
                    gate.allow(*[process for process in gate.fetch() if process.paused])
            except procmon.GateClosed:
                pass

        thread = threading.Thread(target=answer)
        thread.start()
        median = _holds(notifier)
        gate.close()
        thread.join()
        return median


def _holds(notifier: Device) -> float:
    """Median seconds from the image notification of an invented process to the end of its hold."""
    delays = []
    for pid in range(500_000, 500_400, 4):
        notifier.request(protocol.NOTE_CREATED, notes.encode_note_created(pid, 4), 4)
        image = notes.encode_note_image(pid, r"\Device\HarddiskVolume1\tools\tool.exe")
        begin = time.perf_counter()
        notifier.request(protocol.NOTE_IMAGE, image, protocol.NOTE_VERDICT.size)
        delays.append(time.perf_counter() - begin)
        notifier.request(protocol.NOTE_EXITED, notes.encode_note_exited(pid, 0))
    return statistics.median(delays)
