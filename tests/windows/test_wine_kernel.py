"""driver/wine/kernel.py as a command: a separate controller decides, and gets every exit."""

import subprocess
import sys
from pathlib import Path

import procmon
from trees import drive, held

KERNEL = Path(__file__).resolve().parents[2] / "driver" / "wine" / "kernel.py"


def test_the_last_exits_are_reported() -> None:
    with procmon.DriverService(), procmon.DriverGate(exempt_descendants=False) as gate:
        command = [sys.executable, str(KERNEL), "--", "cmd", "/c", "hostname"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as kernel:
            records = drive(gate, until=lambda: kernel.poll() is not None)
        records += gate.fetch()
        assert kernel.returncode == 0
        assert held(records) == ["cmd.exe", "hostname.exe"]
        assert [record.name for record in records if record.exited] == ["hostname.exe", "cmd.exe"]
