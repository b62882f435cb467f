"""What the driver's controller takes for a hold, beside one in C; notifications are put in by request, as in tests."""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import procmon
from procmon.driver import protocol, wine_notes
from procmon.driver.info import DEVICE
from procmon.win32.device import Device

from .measure import Row, row_of
from .rivals import CONTROLLER

TEST_BUILD = Path(__file__).resolve().parents[2] / "build" / "driver" / "wine" / "procmon.sys"
TURNS = 9
"""The first one warms up."""


def rows() -> Iterator[Row]:
    """Measure; only where the driver's test build is."""
    if not TEST_BUILD.is_file():
        print("  driver: nothing is measured without its test build, which `dev.py driver` makes on Debian")
        return
    service = procmon.DriverService()
    service.install(TEST_BUILD)
    try:
        service.start()
        try:
            with closing(Device(DEVICE)) as notifier:
                yield from _rows(notifier)
        finally:
            service.stop()
    finally:
        service.delete()


def _rows(notifier: Device) -> Iterator[Row]:
    turns = []
    for _ in range(TURNS):
        free = _holds(notifier)  # without a controller nothing is held
        in_c = _beside([str(CONTROLLER)], notifier)
        ours = _beside([sys.executable, "-m", "bench.driver"], notifier)
        turns.append([1e6 * one for one in (ours, in_c, _by_hand(notifier), free)])
    ours_us, c_us, hand_us, free_us = (list(column) for column in zip(*turns[1:], strict=True))
    yield row_of("driver: a start held, decided, released (p50)", ours_us, c_us, "the same by a controller in C")
    yield row_of(
        "driver: the controller's share of it",
        [one - free for one, free in zip(ours_us, free_us, strict=True)],
        [one - free for one, free in zip(c_us, free_us, strict=True)],
        "that of the controller in C",
        at_most_ratio=1.05,
    )
    yield row_of("driver: by hand, in a thread of this process", hand_us, c_us, "the same by a controller in C")


def _beside(command: list[str], notifier: Device) -> float:
    """Median seconds of a hold while another process is the controller."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as controller:
        try:
            assert controller.stdout is not None
            if controller.stdout.readline().strip() != "ready":
                raise RuntimeError(f"{command[0]} is no controller")
            return _holds(notifier)
        finally:
            controller.kill()


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
        notifier.request(protocol.NOTE_CREATED, wine_notes.encode_note_created(pid, 4), 4)
        image = wine_notes.encode_note_image(pid, r"\Device\HarddiskVolume1\tools\tool.exe")
        begin = time.perf_counter()
        notifier.request(protocol.NOTE_IMAGE, image, protocol.NOTE_VERDICT.size)
        delays.append(time.perf_counter() - begin)
        notifier.request(protocol.NOTE_EXITED, wine_notes.encode_note_exited(pid, 0))
    return statistics.median(delays)


def _main() -> None:
    """A monitor over the driver, until this process is ended: ``python -m bench.driver``."""
    monitor = procmon.Monitor(procmon.DriverGate())
    monitor.subscribe(lambda process: procmon.ALLOW)
    with monitor:
        print("ready", flush=True)
        monitor.wait()


if __name__ == "__main__":
    _main()
