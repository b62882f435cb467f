r"""Block programs by their name, and allow all others.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator.

    $ python examples/block_by_name.py
    allow  c:\windows\system32\cmd.exe
    allow  c:\windows\system32\hostname.exe
    block  c:\windows\system32\whoami.exe
    allow  c:\windows\system32\hostname.exe
    <Monitor stopped on simulated: 3 allowed, 1 blocked, 0 pending>
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon

BLOCKED = {"whoami.exe", "mshta.exe"}


def main(gate: procmon.Gate) -> None:
    """Decide until the gate has ended; the driver's gate never ends."""
    monitor = procmon.Monitor(gate)

    @monitor.subscribe
    def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        verdict = procmon.BLOCK if process.name in BLOCKED else procmon.ALLOW
        print(f"{verdict.value:6} {process.image_name}")
        return verdict

    with monitor:
        monitor.wait()
    print(monitor)


if __name__ == "__main__":
    _gate.run(main, __doc__)
