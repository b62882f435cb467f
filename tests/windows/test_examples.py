"""The examples on real processes: each runs, unchanged, on the debug gate and on the driver's."""

import importlib
import subprocess
import threading
from pathlib import Path

import pytest

import procmon
from examples import samples
from patience import PATIENCE
from procmon.win32.kernel import is_wine

COMMAND = ["cmd", "/c", "hostname & whoami & hostname"]
COUNTS = "<Monitor stopped on {gate}: 3 allowed, 1 blocked, 0 pending>"

# The output of each, in this order, between other lines: the output of the programs, and on Windows' driver gate all
# processes of the machine.
PRINTED = {
    "block_by_name": [r"allow  c:\windows\system32\cmd.exe", r"block  c:\windows\system32\whoami.exe", "{counts}"],
    "hold_and_release": ["hostname.exe runs", "whoami.exe is held", "whoami.exe was held for 1.0 s", "hostname.exe"],
    "asyncio_service": ["allow  cmd.exe", "allow  hostname.exe", "block  whoami.exe", "allow  hostname.exe"],
    "policy_with_reload": ["2 rules", "allow  cmd.exe", "block  whoami.exe    rule no questions about who I am"],
    "build_tools": ["4 processes, 3 tools", "2  hostname.exe", "cmd.exe\n  hostname.exe x2\n  whoami.exe"],
    "embed_with_logging": ["INFO    tool.starts: allow cmd.exe by default", "WARNING tool.starts: block whoami.exe by"],
    "siem_syslog": ["<14>procmon: allow cmd.exe pid=", "<12>procmon: block whoami.exe pid=", "by=callback no_whoami"],
    "siem_ocsf": ['"disposition": "Allowed"', '"disposition": "Blocked"', '"name": "whoami.exe"'],
    "ask_on_console": ["cmd.exe, started by", "whoami.exe, started by", "{counts}"],
}


def check(name: str, printed: str, counts: str) -> None:
    """Are all lines there, in order?"""
    at = 0
    for part in PRINTED[name]:
        part = part.format(counts=counts)
        assert part in printed[at:], f"{part!r} is missing, or not in order, in:\n{printed}"
        at = printed.index(part, at) + len(part)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_on_the_debug_gate(name: str) -> None:
    printed = samples.run(name, "--gate", "debug", *COMMAND, typed="y\ny\nn\ny\n")
    check(name, printed, "3 allowed, 1 blocked, 0 pending>")


def test_every_example_that_takes_a_gate_is_run() -> None:
    taking = {name for name in samples.names() if "_gate.run" in (samples.EXAMPLES / f"{name}.py").read_text("utf-8")}
    assert taking == set(PRINTED)


@pytest.mark.parametrize("name", ["block_by_name", "hold_and_release", "asyncio_service", "policy_with_reload"])
def test_the_same_example_runs_on_the_drivers_gate(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not is_wine():
        pytest.fail("written for Wine, where only the test's processes are reported to the driver")
    from kernel import WineKernel

    with procmon.DriverService(), WineKernel() as kernel:
        gate = procmon.DriverGate(exempt_descendants=False)  # this process starts them

        def build() -> None:
            try:
                kernel.run(COMMAND, stdout=subprocess.DEVNULL).wait(PATIENCE)
            finally:
                gate.close()  # as Ctrl+C would: the driver's gate has no end of its own

        builder = threading.Thread(target=build)
        builder.start()
        importlib.import_module(name).main(gate)
        builder.join(PATIENCE)
    check(name, capsys.readouterr().out, "3 allowed, 1 blocked, 0 pending>")


def test_no_processes_fails_a_test_that_starts_one_and_names_it(tmp_path: Path) -> None:
    [sample] = samples.samples("no_processes")
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(samples.EXAMPLES)!r})\nfrom no_processes import no_processes\n"
    )
    (tmp_path / "test_shop.py").write_text(
        "import subprocess\n"
        "def test_prices(no_processes):\n    assert subprocess.call('hostname') == 0xC0000364\n"
        "def test_orders(no_processes):\n    pass\n"
        "def test_printing():\n    assert subprocess.call('hostname') == 0\n"
    )
    printed = samples.run("no_processes", *sample.arguments.split(), status=1, folder=tmp_path)
    samples.check(sample.expected, printed)


def test_no_processes_without_its_gate_says_so(tmp_path: Path) -> None:
    import no_processes

    with pytest.raises(pytest.fail.Exception, match="there is no gate"):
        no_processes.tell(no_processes.FORBID)
