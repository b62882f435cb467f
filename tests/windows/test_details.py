"""procmon.inspect on real processes, running and held."""

import ctypes
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
from authenticode import image_hash, small_program
from executables import executable
from patience import PATIENCE
from procmon import Integrity, ProcessDetails, SignatureKind, SignatureStatus
from procmon.system.pe import PortableExecutable
from procmon.win32 import kernel, trust
from procmon.win32 import process as win32_process
from procmon.win32.files import handle_of, open_shared
from procmon.win32.handles import Handle
from procmon.win32.kernel import is_wine

SIGNED = Path(sys.executable)  # the embeddable CPython is signed by those who make it
SIGNER = "Python Software Foundation"


@contextmanager
def held(command: str | list[str], cwd: Path | None = None) -> Iterator[procmon.ProcessHelper]:
    """One process before its first instruction; it is blocked in the end."""
    with procmon.DebugGate.run(command, stdout=subprocess.DEVNULL, cwd=cwd) as gate:
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
        assert details.session is not None and details.session == procmon.inspect(os.getpid()).session
        assert isinstance(details.integrity, Integrity) and details.integrity >= Integrity.MEDIUM
        assert details.elevated is not None
        assert details.sha256 == hashlib.sha256(SIGNED.read_bytes()).hexdigest()
        assert details.signer == SIGNER
        assert details.signature is not None and details.signature.kind is SignatureKind.EMBEDDED
        assert details.reasons == {}
        assert details.as_dict()["signature"] == "valid"
        assert repr(details) == f"<ProcessDetails {process.pid} {process.image_name!r}>"


def test_the_facts_of_the_file_are_those_of_its_bytes(tmp_path: Path) -> None:
    texts = {"OriginalFilename": "certutil.exe", "ProductName": "Tools", "CompanyName": "Example Ltd"}
    program = executable(version=texts | {"FileDescription": "A tool"}, numbers=(10, 0, 19041, 1))
    (tmp_path / "renamed.exe").write_bytes(program)
    with held(str(tmp_path / "renamed.exe")) as process:
        details = procmon.inspect(process)
        assert details.original_file_name == "certutil.exe" and details.product == "Tools"
        assert details.company == "Example Ltd" and details.description == "A tool"
        assert details.file_version == "10.0.19041.1"
        assert details.size == len(program)
        assert details.md5 == hashlib.md5(program).hexdigest() and details.sha1 == hashlib.sha1(program).hexdigest()
        assert details.sha256 == hashlib.sha256(program).hexdigest()
        assert details.authenticode_sha256 == image_hash(program, "sha256").hex()
        assert details.imphash is None and details.reasons["imphash"] == "it imports nothing"
        assert details.publisher is None and details.reasons["publisher"] == "it is not signed"


def windows_hash(path: Path) -> str:
    """The hash by which Windows searches for a file in its catalogues, computed by Windows."""
    digest, size = ctypes.create_string_buffer(64), ctypes.c_uint32(64)
    with open_shared(str(path)) as file:
        trust._CryptCATAdminCalcHashFromFileHandle(handle_of(file), size, digest, 0)
    return digest.raw[: size.value].hex()


def hashes_all_bytes(folder: Path) -> bool:
    """Does this Windows hash a program like any other file, with the checksum in its header, as Wine 8 does?"""
    hashes = set()
    for name, checksum in (("a.exe", b"\0\0\0\0"), ("b.exe", b"\1\2\3\4")):
        program = bytearray(small_program())
        at = int.from_bytes(program[0x3C:0x40], "little") + 24 + 64  # of CheckSum in the optional header
        program[at : at + 4] = checksum
        (folder / name).write_bytes(program)
        hashes.add(windows_hash(folder / name))
    return len(hashes) == 2


def test_the_hash_that_a_signature_covers_is_the_one_that_windows_computes(tmp_path: Path) -> None:
    with open_shared(str(SIGNED)) as file:
        ours = PortableExecutable(file).authenticode_hash("sha1")
    whole = hashlib.sha1(SIGNED.read_bytes()).hexdigest()
    assert ours != whole
    assert windows_hash(SIGNED) == (whole if hashes_all_bytes(tmp_path) else ours)


def test_the_publisher_is_reported_as_applocker_writes_it() -> None:
    publisher = procmon.inspect(os.getpid()).publisher
    assert publisher is not None and publisher.startswith(f"O={SIGNER}, L=") and publisher.endswith(", C=US")


def test_facts_of_the_token_and_of_the_parameters(tmp_path: Path) -> None:
    with held("hostname", cwd=tmp_path) as process:
        details, ours = procmon.inspect(process), procmon.inspect(os.getpid())
        assert details.current_directory is not None
        assert details.current_directory.lower().rstrip("\\") == str(tmp_path).lower()
        assert details.current_directory.endswith("\\")
        assert details.group and all(sid.startswith("S-1-") for sid in details.group)
        assert "S-1-1-0" in details.group  # everyone
        assert details.logon_id is not None and int(details.logon_id, 16) == int(ours.logon_id or "", 16)
        assert details.group == ours.group


def test_facts_of_the_parent() -> None:
    with held("hostname") as process:
        details, ours = procmon.inspect(process), procmon.inspect(os.getpid())
        assert details.parent_command_line == ours.command_line
        assert details.parent_user == details.user
        assert details.creator is None and details.reasons["creator"] == "the gate does not report who created it"
        created_by_us = procmon.inspect(replace(process, creator_pid=os.getpid()))
        assert created_by_us.creator == process.image_name.replace("hostname", "python") or (
            created_by_us.creator == sys.executable.lower()
        )
        orphan = procmon.inspect(replace(process, parent_pid=0x7FFFFFF0))
        assert orphan.parent_command_line is None
        assert orphan.reasons["parent_command_line"] == f"process {0x7FFFFFF0} has gone"


def test_the_origin_is_that_of_the_mark_of_the_web(tmp_path: Path) -> None:
    """Under Wine a stream is a separate file with a colon in its name; NTFS itself is not tested there."""
    image = tmp_path / "a.exe"
    image.write_bytes(executable())
    with held(str(image)) as process:
        assert procmon.inspect(process).origin is None
        with open(f"{image}:Zone.Identifier", "w") as mark:
            mark.write("[ZoneTransfer]\nZoneId=3\nHostUrl=https://example.com/a.exe\n")
        assert procmon.inspect(process).origin == "internet"


def test_half_a_surrogate_pair_in_a_command_line_is_kept() -> None:
    with held("hostname \ud800") as process:
        assert process.command_line == "hostname \ud800"
        assert procmon.inspect(process.pid).command_line == "hostname \ud800"


def test_a_handle_is_closed_when_no_file_can_be_made_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import msvcrt

    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")

    def too_many(handle: int, flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(msvcrt, "open_osfhandle", too_many)
    with pytest.raises(OSError, match="Too many open files"):
        open_shared(str(path))
    alone = 0  # shared with no other handle, so it opens only when there is none
    Handle(kernel.open_existing(str(path), kernel.GENERIC_READ, alone)).close()


@pytest.mark.parametrize("pid", [2**32 + 4, 2**64 + 4, -4])
def test_a_pid_of_more_than_32_bits_opens_no_other_process(pid: int) -> None:
    with pytest.raises(OSError, match="OpenProcess"):
        kernel.open_process(pid)
    with pytest.raises(ValueError, match="process identifier from 0 to"):
        procmon.inspect(pid)


def test_a_callback_looks_up_what_it_decides_on() -> None:
    def decide(process: procmon.ProcessHelper) -> procmon.Verdict:
        details = procmon.inspect(process)
        return procmon.ALLOW if details.sha256 and details.command_line and details.user_sid else procmon.BLOCK

    gate = procmon.DebugGate.run(["cmd", "/c", "hostname"], stdout=subprocess.PIPE)
    with procmon.Monitor(gate) as monitor:
        monitor.subscribe(decide)
        assert gate.popen is not None
        assert gate.popen.communicate(timeout=PATIENCE)[0].strip()
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
    """The way for Windows before 8.1 (and Wine); later versions do not use it."""
    with held(["hostname", "a b"]) as process, win32_process_handle(process.pid) as handle:
        assert win32_process.command_line_in_memory(handle) == 'hostname "a b"'


@contextmanager
def win32_process_handle(pid: int) -> Iterator[int]:
    from procmon.win32 import kernel

    access = kernel.PROCESS_QUERY_LIMITED_INFORMATION | kernel.PROCESS_VM_READ
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
    """Wine signs no programs and has no catalogues: there the same look-up reports an unsigned program."""
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
    """Otherwise a user who can write to an allowed program could replace it and keep its cached identity."""
    from procmon.system.file_facts import file_hash

    path = tmp_path / "a.exe"
    path.write_bytes(b"abc")
    before = path.stat()
    assert file_hash(str(path), "sha256") == hashlib.sha256(b"abc").hexdigest()
    time.sleep(0.05)
    path.write_bytes(b"xyz")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert file_hash(str(path), "sha256") == hashlib.sha256(b"xyz").hexdigest()


def test_a_path_longer_than_max_path_is_hashed(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*["d" * 60] * 5)
    os.makedirs("\\\\?\\" + str(folder))
    image = str(folder / "deep.exe")
    assert len(image) > 300
    shutil.copyfile(SIGNED, "\\\\?\\" + image)
    from procmon.system.file_facts import file_hash

    assert file_hash(image, "sha256") == hashlib.sha256(SIGNED.read_bytes()).hexdigest()
