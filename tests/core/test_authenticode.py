"""osslsigncode, an independent program, accepts the files that tests/authenticode.py makes."""

import doctest
import subprocess
from pathlib import Path

import pytest

import authenticode
from authenticode import Authority, Signer, image_hash, small_program


@pytest.fixture(scope="module")
def root() -> Authority:
    return Authority("Test Root")


@pytest.fixture(scope="module")
def signer(root: Authority) -> Signer:
    return root.signer("Test Signer")


def verified(folder: Path, program: bytes, catalogue: bytes, root: Authority) -> tuple[int, str]:
    """Verify a program, a catalogue and trusted roots with osslsigncode; return its status and output."""
    for name, data in (("a.exe", program), ("a.cat", catalogue), ("root.der", root.certificate)):
        (folder / name).write_bytes(data)
    convert = ["openssl", "x509", "-inform", "DER", "-in", "root.der", "-out", "root.pem"]
    subprocess.run(convert, cwd=folder, check=True)
    command = ["osslsigncode", "verify", "-CAfile", "root.pem", "-catalog", "a.cat", "-in", "a.exe"]
    said = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return said.returncode, said.stdout


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_a_program_is_found_in_a_catalogue_that_lists_it(
    tmp_path: Path, root: Authority, signer: Signer, kind: str
) -> None:
    program = small_program(b"one")
    status, words = verified(tmp_path, program, signer.catalogue(image_hash(program, kind)), root)
    assert status == 0, words
    assert "File is signed in catalog: a.cat" in words and "Subject: /CN=Test Signer" in words


def test_another_program_is_not(tmp_path: Path, root: Authority, signer: Signer) -> None:
    catalogue = signer.catalogue(image_hash(small_program(b"one"), "sha256"))
    status, words = verified(tmp_path, small_program(b"two"), catalogue, root)
    assert status != 0 and "Catalog verification: failed" in words


def test_a_catalogue_that_was_changed_is_not_believed(tmp_path: Path, root: Authority, signer: Signer) -> None:
    program = small_program(b"one")
    catalogue = bytearray(signer.catalogue(image_hash(program, "sha256")))
    catalogue[-1] ^= 1
    status, words = verified(tmp_path, program, bytes(catalogue), root)
    assert status != 0 and "Signature verification: failed" in words


def test_a_signer_is_not_believed_whose_authority_is_not(tmp_path: Path, signer: Signer) -> None:
    program = small_program(b"one")
    catalogue = signer.catalogue(image_hash(program, "sha256"))
    status, words = verified(tmp_path, program, catalogue, Authority("Somebody else"))
    assert status != 0 and "Signature verification: failed" in words


def test_its_own_examples_hold() -> None:
    result = doctest.testmod(authenticode)
    assert result.attempted and not result.failed
