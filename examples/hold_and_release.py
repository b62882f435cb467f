r"""Hold a process for as long as you like, and release it later; no other process waits for it.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator (and a
hold timeout that is long enough or off: see docs/gates/driver.md).

    $ python examples/hold_and_release.py
    hostname.exe runs
    whoami.exe is held
    hostname.exe runs
    whoami.exe was held for 1.0 s, and runs
    <Monitor stopped on simulated: 4 allowed, 0 blocked, 0 pending>
"""

import sys
import threading
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon

HELD, SECONDS = "whoami.exe", 1.0


def main(gate: procmon.Gate) -> None:
    """Hold each `HELD` for `SECONDS`, until the gate has ended."""
    monitor = procmon.Monitor(gate)

    def release(process: procmon.ProcessHelper) -> None:
        print(f"{process.name} was held for {SECONDS} s, and runs")
        monitor.allow(process)

    @monitor.subscribe(match=HELD)
    def hold(process: procmon.ProcessHelper) -> procmon.Verdict:
        print(f"{process.name} is held")
        threading.Timer(SECONDS, release, [process]).start()  # or a click, a message, the end of another process
        return procmon.DEFER

    @monitor.subscribe(match="hostname.exe")
    def report(process: procmon.ProcessHelper) -> None:
        print(f"{process.name} runs")

    with monitor:
        monitor.wait()
    print(monitor)


if __name__ == "__main__":
    _gate.run(main, __doc__)
