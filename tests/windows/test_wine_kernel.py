"""What the tests need of Wine: driver/wine/kernel.py as a command, and a service control manager."""

import subprocess
import sys
from pathlib import Path

import pytest

import procmon
import wine_creation
from procmon.win32 import kernel as win32_kernel
from procmon.win32 import scm
from trees import drive, eventually, held

KERNEL = Path(__file__).resolve().parents[2] / "driver" / "wine" / "kernel.py"


def test_the_last_exits_are_reported() -> None:
    """A separate controller decides, and gets every exit."""
    with procmon.DriverService(), procmon.DriverGate(exempt_descendants=False) as gate:
        command = [sys.executable, str(KERNEL), "--", "cmd", "/c", "hostname"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as kernel:
            records = drive(gate, until=lambda: kernel.poll() is not None)
        records += gate.fetch()
        assert kernel.returncode == 0
        assert held(records) == ["cmd.exe", "hostname.exe"]
        assert [record.name for record in records if record.exited] == ["hostname.exe", "cmd.exe"]


def test_a_service_control_manager_that_is_missing_is_started(capfd: pytest.CaptureFixture[str]) -> None:
    def is_there() -> bool:
        try:
            with scm._manager():
                return True
        except OSError as error:
            assert error.winerror == wine_creation.RPC_SERVER_UNAVAILABLE
            return False

    [services] = [process for process in procmon.processes() if process.name == "services.exe"]
    with win32_kernel.open_process(services.pid, win32_kernel.PROCESS_TERMINATE) as process:
        win32_kernel.terminate_process(process, 1)
    assert eventually(lambda: not is_there())
    wine_creation.start_services()
    assert is_there() and procmon.DriverService().status().state is procmon.DriverState.NOT_INSTALLED
    assert "services.exe is started" in capfd.readouterr().err
