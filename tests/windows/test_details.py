"""procmon.inspect on real processes, running and held."""

import hashlib
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

import procmon
from procmon import Integrity, ProcessDetails, SignatureKind, SignatureStatus
from procmon.win32 import process as win32_process
from procmon.win32.kernel import is_wine

SIGNED = Path(sys.executable)  # the embeddable CPython is signed by those who make it
SIGNER = "Python Software Foundation"


@contextmanager
def held(command: str | list[str]) -> Iterator[procmon.ProcessHelper]:
    """One process before its first instruction; it is blocked in the end."""
    with procmon.DebugGate.run(command, stdout=subprocess.DEVNULL) as gate:
        process: procmon.ProcessHelper | None = None
        while process is None:
            gate.wait()
            process = next((record for record in gate.fetch() if record.paused), None)
        yield process
        gate.block(process)


def test_all_facts_of_a_process_that_is_held() -> None:
    command = f'"{sys.executable}" -c "print(1)" ' + "x" * 5000 + " \u00fc"
    with held(command) as process:
        details = procmon.inspect(process.pid)  # by pid: nothing may come from the gate's record
        assert details.command_line == command == process.command_line
        assert details.path is not None and details.path.lower() == process.image_name
        assert details.user is not None and details.user.lower().endswith("\\" + os.environ["USERNAME"].lower())
        assert details.user_sid is not None and details.user_sid.startswith("S-1-5-")
        assert details.session_id is not None and details.session_id == procmon.inspect(os.getpid()).session_id
        assert isinstance(details.integrity, Integrity) and details.integrity >= Integrity.MEDIUM
        assert details.elevated is not None
        assert details.sha256 == hashlib.sha256(SIGNED.read_bytes()).hexdigest()
        assert details.signer == SIGNER
        assert details.signature is not None and details.signature.kind is SignatureKind.EMBEDDED
        assert details.reasons == {}
        assert details.as_dict()["signature"] == "valid"
        assert repr(details) == f"<ProcessDetails {process.pid} {process.image_name!r}>"


def test_a_callback_looks_up_what_it_decides_on() -> None:
    def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        details = procmon.inspect(process)
        return procmon.ALLOW if details.sha256 and details.command_line and details.user_sid else procmon.BLOCK

    gate = procmon.DebugGate.run(["cmd", "/c", "hostname"], stdout=subprocess.PIPE)
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(decide)
        assert gate.popen is not None
        assert gate.popen.communicate(timeout=20)[0].strip()
    gate.close()


@pytest.mark.parametrize(
    "condition",
    [
        f'signer = "{SIGNER}"',
        f'sha256 = "{hashlib.sha256(SIGNED.read_bytes()).hexdigest()}"',
        f'user = "*/{os.environ["USERNAME"]}"',
        "parent = 'python.exe'",
        "ancestor = 'python.exe'",
    ],
)
def test_a_rule_on_a_looked_up_fact_matches_a_held_process(condition: str) -> None:
    policy = procmon.Policy.parse(f'[[rule]]\n{condition}\nverdict = "block"')
    with held([sys.executable]) as process:
        assert policy.decide(process).verdict is procmon.BLOCK, policy.explain(process)


def test_the_command_line_from_memory_is_the_same() -> None:
    """What Windows before 8.1 (and Wine) need, and what the later ones do not use."""
    with held(["hostname", "a b"]) as process, win32_process_handle(process.pid) as handle:
        assert win32_process._command_line_in_memory(handle) == 'hostname "a b"'


@contextmanager
def win32_process_handle(pid: int) -> Iterator[int]:
    from procmon.win32 import kernel

    access = kernel.PROCESS_QUERY_LIMITED_INFORMATION | win32_process.PROCESS_VM_READ
    with kernel.open_process(pid, access) as handle:
        yield int(handle)


# ---------------------------------------------------------------------------------------------------------- identity


def test_a_pid_that_belongs_to_another_process_now_is_stale() -> None:
    with held("hostname") as process:
        assert process.created is not None
        before = replace(process, created=process.created - timedelta(milliseconds=1))
        with pytest.raises(procmon.StaleProcess, match=f"pid {process.pid} belongs to a process created"):
            procmon.inspect(before)
        late_note = replace(process, created=process.created + timedelta(milliseconds=20))
        assert procmon.inspect(late_note).process is late_note


def test_a_process_that_has_gone_is_stale() -> None:
    with subprocess.Popen("hostname", stdout=subprocess.DEVNULL) as popen:
        popen.wait()
        with pytest.raises(procmon.StaleProcess, match="has gone"):
            procmon.inspect(popen.pid)  # its pid is kept by our handle
    with pytest.raises(procmon.StaleProcess, match=r"procmon\.processes\(\) lists what runs"):
        procmon.inspect(0x7FFFFFF0)


def test_the_facts_that_came_too_late_say_so_and_the_early_ones_stay() -> None:
    with subprocess.Popen("cmd", stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as popen:
        details = procmon.inspect(popen.pid)
        assert details.user_sid
        popen.kill()
        popen.wait()
        assert details.command_line is None
        assert details.reasons["command_line"] == "the process has exited meanwhile"
        assert details.user_sid
        details.close()
        details.close()
        assert details.user_sid


def test_a_closed_one_has_a_reason() -> None:
    details = procmon.inspect(os.getpid())
    details.close()
    assert details.command_line is None
    assert details.reasons["command_line"] == "the handle is closed"


# --------------------------------------------------------------------------------------------------------- signatures


def details_of_a_held(image: Path) -> ProcessDetails:
    """The details, complete, of a process of that image; it never ran."""
    with held([str(image)]) as process:
        details = procmon.inspect(process)
        assert details.signature is not None
        assert details.signer is not None or "signer" in details.reasons
        return details


def test_a_file_that_was_changed_after_it_was_signed_is_tampered(tmp_path: Path) -> None:
    image = tmp_path / "tampered.exe"
    data = bytearray(SIGNED.read_bytes())
    message = data.index(b"This program cannot be run in DOS mode")
    data[message] ^= 0x20
    image.write_bytes(data)
    details = details_of_a_held(image)
    assert details.signature is not None and details.signature.status is SignatureStatus.TAMPERED
    assert details.signer is None
    assert details.reasons["signer"] == "its signature is tampered"


def test_a_file_without_a_signature_is_unsigned(tmp_path: Path) -> None:
    image = tmp_path / "unsigned.exe"
    data = bytearray(SIGNED.read_bytes())
    header = struct.unpack_from("<I", data, 0x3C)[0]
    wide = struct.unpack_from("<H", data, header + 24)[0] == 0x20B  # PE32+
    directory = header + 24 + (112 if wide else 96) + 4 * 8  # the security directory, fifth of them
    at, size = struct.unpack_from("<II", data, directory)
    assert at + size == len(data)
    struct.pack_into("<II", data, directory, 0, 0)
    image.write_bytes(data[:at])
    details = details_of_a_held(image)
    assert details.signature == procmon.Signature(SignatureStatus.UNSIGNED, SignatureKind.NONE, None, 0x800B0100)
    assert details.reasons["signer"] == "it is not signed"


def test_a_program_of_windows_is_signed_by_catalogue() -> None:
    """Wine signs none of its programs and keeps no catalogues: there the same look-up finds that it is unsigned."""
    with held("hostname") as process:
        signature = procmon.inspect(process).signature
        assert signature is not None
        if is_wine():
            assert signature.status is SignatureStatus.UNSIGNED
        else:
            assert signature.status is SignatureStatus.VALID
            assert signature.subject is not None and "Microsoft" in signature.subject
            assert signature.kind is SignatureKind.EMBEDDED or signature.catalog is not None


def test_a_file_is_not_kept_from_being_renamed_or_deleted(tmp_path: Path) -> None:
    from procmon.win32.files import open_shared

    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    with open_shared(str(path)) as file:
        path.rename(tmp_path / "b.bin")
        (tmp_path / "b.bin").unlink()
        assert file.read() == b"abc"
    with pytest.raises(FileNotFoundError):
        open_shared(str(path))


def test_a_file_that_was_rewritten_is_hashed_anew_though_its_time_was_set_back(tmp_path: Path) -> None:
    """Else whoever may write to an allowed program could make another one of it, and be taken for the first."""
    from procmon.system.details import _of_file, _sha256

    path = tmp_path / "a.exe"
    path.write_bytes(b"abc")
    before = path.stat()
    assert _of_file(str(path), "sha256", _sha256) == hashlib.sha256(b"abc").hexdigest()
    time.sleep(0.05)
    path.write_bytes(b"xyz")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert _of_file(str(path), "sha256", _sha256) == hashlib.sha256(b"xyz").hexdigest()


def test_a_path_longer_than_max_path_is_hashed(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d" * 60] * 5)
    os.makedirs("\\\\?\\" + str(folder))
    image = str(folder / "deep.exe")
    assert len(image) > 300
    shutil.copyfile(SIGNED, "\\\\?\\" + image)
    from procmon.system.details import _of_file, _sha256

    assert _of_file(image, "sha256", _sha256) == hashlib.sha256(SIGNED.read_bytes()).hexdigest()
