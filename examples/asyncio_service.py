r"""Decide in asyncio: each process gets a task of its own, which can query other services and take its time.

Needs: nothing as it stands; --gate debug COMMAND needs Windows, --gate driver the driver and an administrator.

    $ python examples/asyncio_service.py
    allow  hostname.exe
    allow  hostname.exe
    allow  cmd.exe
    block  whoami.exe
"""

import asyncio
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # an embeddable Python does not search here by itself
import _gate
import procmon


async def reputation(process: procmon.ProcessHelper) -> int:
    """Return the points of an image from another service; here a slow one that knows few images."""
    known = {"hostname.exe": (0.1, 90), "cmd.exe": (0.5, 70)}
    seconds, points = known.get(process.name, (1.0, 0))
    await asyncio.sleep(seconds)
    return points


async def decide(monitor: procmon.Monitor, process: procmon.ProcessHelper) -> None:
    """Answer for one process, while other tasks decide about others."""
    answer = monitor.allow_async if await reputation(process) >= 50 else monitor.block_async
    try:
        decision = await answer(process)
        print(f"{decision.verdict.value:6} {process.name}")
    except procmon.ProcmonError as error:  # it died meanwhile, say; an uncaught error would end the whole group
        print(f"too late: {error}")


async def serve(gate: procmon.Gate) -> None:
    """Decide until the gate has ended, or until this task is cancelled."""
    monitor = procmon.Monitor(gate)
    starts = monitor.starts()  # before the monitor starts, so that it misses no process
    async with monitor, asyncio.TaskGroup() as tasks:
        async for process in starts:
            tasks.create_task(decide(monitor, process))


def main(gate: procmon.Gate) -> None:
    """Run the service."""
    asyncio.run(serve(gate))


if __name__ == "__main__":
    _gate.run(main, __doc__)
