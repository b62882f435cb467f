"""The exceptions: their base classes and attributes."""

import pickle

import pytest

import procmon
from procmon import errors

PROCESS = procmon.ProcessHelper(pid=44, parent_pid=4, image_name=r"c:\a.exe")

DRIVER = [
    procmon.ControllerBusy,
    procmon.DriverAlreadyInstalled,
    procmon.DriverFileMissing,
    procmon.DriverFileUnsafe,
    procmon.DriverNotInstalled,
    procmon.DriverNotRunning,
    procmon.DriverNotSigned,
    procmon.DriverRunning,
    procmon.VersionMismatch,
]
VERDICT = [procmon.AlreadyAnswered, procmon.NotHeld, procmon.ProcessTampered, procmon.StaleProcess]


def test_the_families_have_these_members() -> None:
    exceptions = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]
    for family, members in ((procmon.DriverError, DRIVER), (procmon.VerdictError, VERDICT)):
        found = [one for one in exceptions if issubclass(one, family) and one is not family]
        assert sorted(found, key=lambda one: one.__name__) == members
    assert all(issubclass(one, procmon.ProcmonError | Warning) for one in exceptions)


@pytest.mark.parametrize("kind", VERDICT)
def test_a_verdict_error_carries_the_process_and_its_pid(kind: type[procmon.VerdictError]) -> None:
    error = kind("it has gone", PROCESS)
    assert (error.pid, error.process, str(error)) == (44, PROCESS, "it has gone")
    assert (kind("", 45).pid, kind("", 45).process) == (45, None)
    assert (kind("").pid, kind("").process) == (None, None)


def test_a_verdict_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(procmon.StaleProcess("it has gone", PROCESS)))
    assert (type(error), error.pid, error.process, str(error)) == (procmon.StaleProcess, 44, PROCESS, "it has gone")


def test_the_gate_says_which_process_has_gone() -> None:
    gate = procmon.SimulatedGate()
    process = gate.start("a.exe")
    gate.exit(process)
    with pytest.raises(procmon.StaleProcess) as caught:
        gate.terminate(process)
    assert caught.value.process is process
