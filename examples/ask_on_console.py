r"""Ask on the console about each process; Enter allows. Meanwhile the other processes wait, each for its own answer.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator. On the
driver's gate the driver itself releases a process that waits too long, and the answer is "too late".

    $ python examples/ask_on_console.py
    cmd.exe, started by 4: command line not known
    let it run? [Y/n] y
    hostname.exe, started by 1000: hostname
    let it run? [Y/n] y
    whoami.exe, started by 1000: whoami
    let it run? [Y/n] n
    hostname.exe, started by 1000: hostname
    let it run? [Y/n]
    <Monitor stopped on simulated: 3 allowed, 1 blocked, 0 pending>
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon


def main(gate: procmon.Gate) -> None:
    """Ask until the gate has ended."""
    monitor = procmon.Monitor(gate)
    starts = monitor.starts()  # before the monitor starts, so that it misses no process
    with monitor:
        for process in starts:
            command = process.command_line or "command line not known"
            print(f"{process.name}, started by {process.parent_pid}: {command}")
            refused = input("let it run? [Y/n] ").strip().lower().startswith("n")
            try:
                (monitor.block if refused else monitor.allow)(process)
            except procmon.ProcmonError as error:
                print(f"too late: {error}")
    print(monitor)


if __name__ == "__main__":
    _gate.run(main, __doc__)
