r"""A pytest fixture that forbids a test to start processes, whether in Python, in a C library, or through a child.

pytest runs under a `DebugGate`, which holds each process that the tests start. While a test with the fixture runs, such
a process is blocked before its first instruction, and the test fails with its name. Put this file beside your tests,
write ``from no_processes import no_processes`` into conftest.py, and run the tests with it.

Needs: Windows. It works only for tests in one process, so not with pytest-xdist. On other systems, or if only starts
by Python code matter, `sys.addaudithook` can do it within the process.

    > python examples/no_processes.py -q --no-header test_shop.py
    .E..                                                                     [100%]
    ...
    ERROR test_shop.py::test_prices - Failed: it started hostname.exe
    3 passed, 1 error in ...
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import procmon

FORBID, PERMIT, BLOCKED = "--forbid-processes", "--permit-processes", 0xC0000364


@pytest.fixture
def no_processes() -> Iterator[None]:
    """Fail the test if it starts a process."""
    tell(FORBID)
    yield
    if started := tell(PERMIT):
        pytest.fail(f"it started {', '.join(started)}", pytrace=False)


def tell(word: str) -> list[str]:
    """Send a word to the gate by a process that it blocks (it asks in the order of starts); return what was started."""
    if subprocess.call([sys.executable, word]) != BLOCKED:
        pytest.fail("there is no gate: run the tests by `python no_processes.py`", pytrace=False)
    return Path(os.environ["NO_PROCESSES"]).read_text(encoding="utf-8").splitlines()


def main() -> int:
    """Run pytest under the gate; return its exit status."""
    with tempfile.TemporaryDirectory() as folder:
        started, forbidden = Path(folder, "started"), False
        command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
        gate = procmon.DebugGate.run(command, env={**os.environ, "NO_PROCESSES": str(started)})
        monitor = procmon.Monitor(gate)

        @monitor.subscribe
        def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
            nonlocal forbidden
            word = (process.command_line or "").split()[-1:]
            if word in ([FORBID], [PERMIT]):
                forbidden = word == [FORBID]
                if forbidden:
                    started.write_text("", encoding="utf-8")
            elif forbidden:
                with started.open("a", encoding="utf-8", errors="backslashreplace") as names:
                    names.write(f"{process.name}\n")
            else:
                return procmon.ALLOW
            return procmon.BLOCK

        with monitor:
            monitor.wait()
        return gate.popen.wait() if gate.popen else 1


if __name__ == "__main__":
    sys.exit(main())
