"""Signatures by catalogue, from the look-up of a process down to WinVerifyTrust, on catalogues of our own; under Wine.

Each test runs twice: as before Windows 8, which is Wine's own way (by SHA-1), and as from Windows 8 on (by SHA-256,
which wintrust.py adds). Wine 8 checks a catalogue's signature and its signer, but not that it lists the file.
"""

import ctypes
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

import procmon
from authenticode import Authority, Signer, image_hash, small_program
from procmon import ProcessDetails, Signature, SignatureKind, SignatureStatus
from procmon.system import file_facts
from procmon.system import signature as signatures
from procmon.win32 import files, trust
from procmon.win32._bind import last_error
from procmon.win32.codes import ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_PARAMETER, code_of
from windows.wintrust import Watched, Windows8, Wine, Wine10

CATALOGS = Path(os.environ["SystemRoot"], "system32", "catroot", "{127d0a1d-4ef2-11d1-8608-00c04fc295ee}")
UNSIGNED = Signature(SignatureStatus.UNSIGNED, SignatureKind.NONE, None, 0x800B0100)


def good(catalog: Path) -> Signature:
    return Signature(SignatureStatus.VALID, SignatureKind.CATALOG, "Test Signer", 0, str(catalog))


def untrusted(catalog: Path) -> Signature:
    return Signature(SignatureStatus.UNTRUSTED, SignatureKind.CATALOG, "Stranger", 0x800B0109, str(catalog))


@pytest.fixture(scope="module")
def signer(authority: Authority) -> Signer:
    return authority.signer("Test Signer")


@pytest.fixture(scope="module")
def stranger() -> Signer:
    return Authority("Not trusted").signer("Stranger")


@pytest.fixture(autouse=True)
def no_catalogues() -> Iterator[None]:
    CATALOGS.mkdir(parents=True, exist_ok=True)
    yield
    for path in CATALOGS.iterdir():
        path.unlink()


@pytest.fixture(params=[Wine, Windows8, Wine10], ids=["before Windows 8", "from Windows 8 on", "Wine 10"])
def wintrust(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watched]:
    """procmon's bindings, bound again to a DLL that checks each call and can replace its result."""
    spec = importlib.util.find_spec("procmon.win32.trust")
    assert spec is not None and spec.loader is not None
    trust = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(trust)
    trust.wintrust._dll = dll = Watched(request.param(CATALOGS))
    monkeypatch.setattr(signatures, "trust", trust)
    yield dll
    assert (dll.wrong, dll.open) == ([], [])


@pytest.fixture
def program(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "program.exe"
    path.write_bytes(small_program(hashlib.md5(request.node.name.encode()).digest()))
    return path


def install(name: str, signer: Signer, program: Path, *, is_signed: bool = True) -> Path:
    """A catalogue that lists the program by its image hash, and, as for Wine 8, by the hash of the whole file."""
    image = program.read_bytes()
    catalog = CATALOGS / f"{name}.cat"
    hashes = image_hash(image, "sha1"), image_hash(image, "sha256"), hashlib.sha1(image).digest()
    catalog.write_bytes(signer.catalogue(*hashes, is_signed=is_signed))
    return catalog


def signature_of(program: Path) -> Signature:
    return file_facts.signature(str(program))


@contextmanager
def held(program: Path) -> Iterator[tuple[procmon.ProcessHelper, ProcessDetails]]:
    """A process of that program before its first instruction, and its details; it never runs."""
    with procmon.DebugGate.run([str(program)], stdout=subprocess.DEVNULL) as gate:
        process: procmon.ProcessHelper | None = None
        while process is None:
            gate.wait()
            process = next((record for record in gate.fetch() if record.paused), None)
        yield process, procmon.inspect(process)
        gate.block(process)


def test_a_process_whose_program_a_catalogue_lists_is_signed_by_the_catalogues_signer(
    wintrust: Watched, signer: Signer, program: Path
) -> None:
    catalog = install("good", signer, program)
    policy = procmon.Policy.parse('[[rule]]\nsigner = "Test Signer"\nverdict = "block"')
    with held(program) as (process, found):
        assert found.signature == good(catalog)
        assert (found.signer, found.reasons) == ("Test Signer", {})
        assert policy.decide(process).verdict is procmon.BLOCK
    assert wintrust.verified == ["good.cat"], "what is known of a file is not asked again"


def test_as_it_is_wine_finds_the_catalogue_by_its_sha_1(signer: Signer, program: Path) -> None:
    catalog = install("good", signer, program)
    assert signature_of(program) == good(catalog)


def test_as_it_is_wine_has_no_sha_256_or_ours_and_finds_the_catalogue_by_it_or_refuses_the_search(
    signer: Signer, program: Path
) -> None:
    """Wine 8 computes no SHA-256. Wine 10 computes it, but searches only by SHA-1."""
    catalog = install("good", signer, program)
    with files.open_shared(str(program)) as file:
        try:
            with trust._catalog_admin("SHA256", files.handle_of(file)) as (admin, digest):
                assert digest == image_hash(program.read_bytes(), "sha256")
                found = list(trust._catalog_paths(admin, digest, "SHA256"))
                first = trust._CryptCATAdminEnumCatalogFromHash(admin, digest, len(digest), 0, ctypes.c_void_p())
                if first:
                    trust._CryptCATAdminReleaseCatalogContext(admin, first, 0)
                refused = not first and last_error() == ERROR_INVALID_PARAMETER
                assert found == ([] if refused else [str(catalog)])
        except OSError as error:
            assert code_of(error) == ERROR_CALL_NOT_IMPLEMENTED
    assert signature_of(program) == good(catalog), "procmon finds the catalogue in any case"


def test_a_program_in_no_catalogue_is_unsigned(wintrust: Watched, signer: Signer, program: Path) -> None:
    other = program.with_name("other.exe")
    other.write_bytes(small_program(b"other"))
    install("other", signer, other)
    assert signature_of(program) == UNSIGNED
    assert wintrust.verified == []


def test_a_program_that_was_changed_is_in_no_catalogue_any_more(
    wintrust: Watched, signer: Signer, program: Path
) -> None:
    catalog = install("good", signer, program)
    assert signature_of(program) == good(catalog)
    image = bytearray(program.read_bytes())
    image[-1] ^= 1
    program.write_bytes(image)
    with held(program) as (_, found):
        assert found.signature == UNSIGNED
        assert (found.signer, found.reasons) == (None, {"signer": "it is not signed"})


def test_a_catalogue_by_an_untrusted_signer_proves_nothing(wintrust: Watched, stranger: Signer, program: Path) -> None:
    catalog = install("strange", stranger, program)
    with held(program) as (_, found):
        assert found.signature == untrusted(catalog)
        assert (found.signer, found.reasons) == (None, {"signer": "its signature is untrusted"})


def test_a_signer_who_may_not_sign_at_that_time_has_expired(
    wintrust: Watched, authority: Authority, program: Path
) -> None:
    catalog = install("late", authority.signer("Too Late", since=datetime(2020, 1, 1)), program)
    expired = Signature(SignatureStatus.EXPIRED, SignatureKind.CATALOG, "Too Late", 0x800B0101, str(catalog))
    assert signature_of(program) == expired


def test_a_catalogue_that_was_changed_is_no_good(wintrust: Watched, signer: Signer, program: Path) -> None:
    catalog = install("changed", signer, program)
    data = bytearray(catalog.read_bytes())
    data[-1] ^= 1  # the end of the signature
    catalog.write_bytes(data)
    signature = signature_of(program)
    assert (signature.status, signature.kind) == (SignatureStatus.INVALID, SignatureKind.CATALOG)
    assert signature.code == 0x80096004  # TRUST_E_CERT_SIGNATURE


def test_a_catalogue_without_a_signature_counts_as_none(wintrust: Watched, signer: Signer, program: Path) -> None:
    install("unsigned", signer, program, is_signed=False)
    assert signature_of(program) == UNSIGNED
    assert set(wintrust.verified) == {"unsigned.cat"}


def test_of_several_catalogues_the_first_good_one_counts(
    wintrust: Watched, signer: Signer, stranger: Signer, program: Path
) -> None:
    install("a", stranger, program)
    catalog = install("b", signer, program)
    install("c", signer, program)
    assert signature_of(program) == good(catalog)
    assert wintrust.verified == ["a.cat", "b.cat"]


def test_several_catalogues_and_no_good_one_are_all_asked(wintrust: Watched, stranger: Signer, program: Path) -> None:
    for name in "abc":
        catalog = install(name, stranger, program)
    assert signature_of(program) == untrusted(catalog)
    assert wintrust.verified == ["a.cat", "b.cat", "c.cat"] * (2 if wintrust.dll.has_sha256 else 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("CryptCATAdminAcquireContext", "CryptCATAdminAcquireContext2"),
        ("CryptCATAdminCalcHashFromFileHandle", "CryptCATAdminCalcHashFromFileHandle2"),
        ("CryptCATAdminEnumCatalogFromHash", "CryptCATAdminEnumCatalogFromHash"),
        ("CryptCATCatalogInfoFromContext", "CryptCATCatalogInfoFromContext"),
    ],
)
def test_a_look_up_that_fails_says_so_leaves_nothing_open_and_is_not_remembered(
    wintrust: Watched, signer: Signer, program: Path, old: str, new: str
) -> None:
    catalog = install("good", signer, program)
    name = new if wintrust.dll.has_sha256 else old
    wintrust.failing = {name: 1058}  # ERROR_SERVICE_DISABLED
    with held(program) as (_, found):
        assert (found.signature, found.signer) == (None, None)
        assert f"{name}: " in found.reasons["signature"] == found.reasons["signer"]
        assert wintrust.open == []
        wintrust.failing = {}
        assert procmon.inspect(found.process).signature == good(catalog)


def test_what_is_signed_itself_is_looked_for_in_no_catalogue(wintrust: Watched) -> None:
    wintrust.failing = {"CryptCATAdminAcquireContext": 1, "CryptCATAdminAcquireContext2": 1}
    assert signature_of(Path(sys.executable)).kind is SignatureKind.EMBEDDED


@pytest.mark.parametrize("verification", [1, 2], ids=["of the file", "by the catalogue"])
def test_a_look_up_that_is_interrupted_leaves_nothing_open(
    wintrust: Watched, signer: Signer, program: Path, monkeypatch: pytest.MonkeyPatch, verification: int
) -> None:
    install("good", signer, program)
    left = [None] * verification

    def interrupted(state: int) -> int | None:
        left.pop()
        if not left:
            raise KeyboardInterrupt
        return None

    monkeypatch.setattr("procmon.system.signature.trust._certificate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        signature_of(program)
    assert wintrust.open == []


def test_a_hundred_look_ups_leave_nothing_open(wintrust: Watched, signer: Signer, program: Path) -> None:
    other = program.with_name("other.exe")
    other.write_bytes(small_program(b"other"))
    expected = {program: good(install("good", signer, program)), other: UNSIGNED}
    before = handles()
    for _ in range(50):
        for path, signature in expected.items():
            with files.open_shared(str(path)) as file:
                assert signatures.find_signature(str(path), file) == signature
            assert wintrust.open == []
    assert len(wintrust.verified) == 50
    assert handles() <= before + 5


def handles() -> int:
    """The number of open handles of this process."""
    count = ctypes.c_uint32()
    kernel32 = ctypes.WinDLL("kernel32.dll")
    assert kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
    return count.value
