"""Runs the driver as built by clang and lld: the entry that seeds the cookie, indirect calls, guarded buffers.

build/driver/wine-release has the compiler, flags and loader data of the x64 driver, and Wine's part of the sources.
Wine checks no signature, enforces no control flow guard and seeds no cookie, so the driver's own entry must seed it.
"""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kernel import WineKernel

import procmon
from patience import PATIENCE
from procmon.driver import protocol
from procmon.driver.info import DEVICE, driver_info
from procmon.win32.device import Device
from procmon.win32.kernel import is_wine

ROOT = Path(__file__).resolve().parents[2]
DRIVER = ROOT / "build" / "driver" / "wine-release" / "procmon.sys"
BLOCKED = 0xC0000364
SOON = PATIENCE / 2
REQUESTS = (protocol.INFO, protocol.FETCH, protocol.LIST, protocol.ALLOW, protocol.BLOCK, protocol.SET_RULES)

__test__ = is_wine()  # Windows runs the x64 driver itself, in every test of the driver


@pytest.fixture
def service() -> Iterator[procmon.DriverService]:
    """The release build, installed and running."""
    service = procmon.DriverService()
    service.install(DRIVER)
    try:
        service.start()
        yield service
    finally:
        if service.status().running:
            service.stop()
        service.delete()


def no_whoami(process: procmon.ProcessHelper) -> procmon.Verdict:
    return procmon.BLOCK if process.image_name.endswith("\\whoami.exe") else procmon.ALLOW


def statuses(*commands: str) -> list[int]:
    """The exit statuses of commands that the driver holds, in order."""
    ended = []
    with WineKernel() as wine:
        for command in commands:
            ended.append(wine.run(command, stdout=subprocess.DEVNULL).wait(SOON) & 0xFFFFFFFF)
        assert wine.join(SOON)
    return ended


def test_the_release_build_loads_holds_allows_blocks_and_unloads_twice(service: procmon.DriverService) -> None:
    for _ in range(2):
        with procmon.DriverGate(exempt_descendants=False) as gate:
            monitor = procmon.Monitor(gate)
            monitor.subscribe(no_whoami)
            with monitor:
                assert statuses("hostname", "whoami") == [0, BLOCKED]
                counters = gate.info().counters
        assert (counters.held, counters.allowed, counters.blocked) == (2, 1, 1)
        service.stop()
        service.start()


def test_its_guarded_functions_return_from_requests_of_every_size(service: procmon.DriverService) -> None:
    """They compare the cookie on return: a changed one would end the process that runs the drivers."""
    device = Device(DEVICE)
    answered = 0
    try:
        for code in REQUESTS:
            for size in (0, 1, 7, 8, 63, 64, 4096):
                with suppress(OSError):
                    device.request(code, bytes(size), 4096)
                    answered += 1
    finally:
        device.close()
    assert answered >= len(REQUESTS)
    assert driver_info().held_count == 0
