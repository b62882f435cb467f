"""DebugGate uses no CPU time while it holds, and leaves no handle behind."""

import ctypes
import gc
import subprocess
import time

import procmon
from trees import SOON, drive, next_held


def test_holding_costs_no_processor_time() -> None:
    with procmon.DebugGate.run(["hostname"], stdout=subprocess.DEVNULL) as gate:
        process = next_held(gate)
        before = time.process_time()
        time.sleep(0.5)
        assert time.process_time() - before < 0.1
        gate.allow(process)


def test_no_handle_is_left_behind() -> None:
    kernel32 = ctypes.WinDLL("kernel32")
    count = ctypes.c_uint32()

    def handles() -> int:
        gc.collect()
        kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
        return count.value

    def once() -> None:
        with procmon.DebugGate.run(["cmd", "/c", "hostname"], stdout=subprocess.DEVNULL) as gate:
            drive(gate)
            assert gate.popen is not None
            gate.popen.wait(SOON)

    once()
    before = handles()
    for _ in range(5):
        once()
    assert handles() <= before + 1
