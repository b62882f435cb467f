r"""Which tools does a build start, how often, and from which tool? Nothing is blocked, and no process is missed.

Polling the list of running processes misses those that live for a few milliseconds. A gate misses none: each process
waits until it was counted.

Needs: Windows, for a real build: python examples/build_tools.py --gate debug cmd /c build.bat

    $ python examples/build_tools.py
    4 processes, 3 tools
       2  hostname.exe
       1  cmd.exe
       1  whoami.exe
    cmd.exe
      hostname.exe x2
      whoami.exe
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon


def main(gate: procmon.Gate) -> None:
    """Watch until the last process of the build has ended."""
    started: list[procmon.ProcessHelper] = []
    monitor = procmon.Monitor(gate, history=0)
    monitor.subscribe(started.append)  # it returns None: no opinion, so the default decides, which is ALLOW
    with monitor:
        monitor.wait()
    tools = Counter(process.name for process in started)
    print(f"{len(started)} processes, {len(tools)} tools")
    for name, count in tools.most_common():
        print(f"{count:4}  {name}")

    kinds: dict[int, tuple[str, ...]] = {}  # by pid: the names of its ancestors, then its own
    for process in started:
        kinds[process.pid] = (*kinds.get(process.parent_pid, ()), process.name)
    children: defaultdict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for process in started:
        *above, name = kinds[process.pid]
        children[tuple(above)][name] += 1
    show(children, ())


def show(children: dict[tuple[str, ...], Counter[str]], above: tuple[str, ...]) -> None:
    """Print the tree below the tools `above`."""
    for name, count in children.get(above, Counter()).items():
        print("  " * len(above) + name + (f" x{count}" if count > 1 else ""))
        show(children, (*above, name))


if __name__ == "__main__":
    _gate.run(main, __doc__)
