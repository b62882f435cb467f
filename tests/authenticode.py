"""Certificates, catalogues, and a program to list in them, made without signtool, for tests on other systems.

    root = Authority("Test Root")
    signer = root.signer("Test Signer")
    program = small_program()
    catalogue = signer.catalogue(image_hash(program, "sha256"))

tests/core/test_authenticode.py verifies them with osslsigncode. Signatures use SHA-1: only then does Wine 8 search for
a catalogue and check whether its signer is trusted.

Sources: RFC 5280 (certificates), RFC 2315 (PKCS #7), Microsoft's "Windows Authenticode Portable Executable Signature
Format", and for the content of a catalogue the output of `openssl asn1parse` for one made by MakeCat.
"""

import hashlib
import math
import secrets
import struct
from dataclasses import dataclass, field
from datetime import datetime

__all__ = ["Authority", "Signer", "image_hash", "small_program"]

LONG_AGO = datetime(1601, 1, 1)
"""Wine 8 checks whether a catalogue's signer was valid at the beginning of FILETIME."""
FAR_AWAY = datetime(2190, 1, 1)

EXPONENT = 65537
KEY_BITS = 1024
SMALL_PRIMES = math.factorial(1000)
"""1000!, a multiple of all of them."""

# ------------------------------------------------------------------------------------------------------ DER and OIDs

BOOLEAN, INTEGER, BITS, OCTETS, NULL, OID, UTF8, BMP, SEQUENCE, SET = 1, 2, 3, 4, 5, 6, 0x0C, 0x1E, 0x30, 0x31
UTC_TIME, GENERALIZED_TIME = 0x17, 0x18
CONTEXT, CONSTRUCTED = 0x80, 0xA0

DIGESTS = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1"}
RSA = "1.2.840.113549.1.1.1"
SHA1_RSA = "1.2.840.113549.1.1.5"
SIGNED_DATA, CONTENT_TYPE, MESSAGE_DIGEST = (f"1.2.840.113549.1.{end}" for end in ("7.2", "9.3", "9.4"))
MICROSOFT = "1.3.6.1.4.1.311"
TRUST_LIST, CATALOG_LIST, CATALOG_MEMBER, MEMBER_INFO, INDIRECT_DATA, PE_IMAGE_DATA = (
    f"{MICROSOFT}.{end}" for end in ("10.1", "12.1.1", "12.1.2", "12.2.2", "2.1.4", "2.1.15")
)
PE_SUBJECT = "{C689AAB8-8E78-11D0-8C47-00C04FC295EE}"
"""The kind of file a member is: a portable executable."""


def der(tag: int, *parts: bytes) -> bytes:
    """One element: its tag, its length, its parts.

    >>> der(SEQUENCE, number(5), der(NULL)).hex()
    '30050201050500'
    """
    body = b"".join(parts)
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def number(value: int) -> bytes:
    return der(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(dotted: str) -> bytes:
    """
    >>> oid("1.2.840.113549").hex()
    '06062a864886f70d'
    """
    first, second, *rest = map(int, dotted.split("."))
    body = bytearray([40 * first + second])
    for arc in rest:
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        body += bytes(reversed(septets))
    return der(OID, bytes(body))


def algorithm(dotted: str) -> bytes:
    return der(SEQUENCE, oid(dotted), der(NULL))


def time(at: datetime) -> bytes:
    if 1950 <= at.year < 2050:
        return der(UTC_TIME, f"{at:%y%m%d%H%M%SZ}".encode())
    return der(GENERALIZED_TIME, f"{at:%Y%m%d%H%M%SZ}".encode())


def name(common: str) -> bytes:
    return der(SEQUENCE, der(SET, der(SEQUENCE, oid("2.5.4.3"), der(UTF8, common.encode()))))


def attribute(kind: str, value: bytes) -> bytes:
    return der(SEQUENCE, oid(kind), der(SET, value))


# --------------------------------------------------------------------------------------------- keys and certificates


class Key:
    """An RSA key for one test run only."""

    def __init__(self) -> None:
        p, q = _prime(KEY_BITS // 2), _prime(KEY_BITS // 2)
        self.modulus = p * q
        self._secret = pow(EXPONENT, -1, (p - 1) * (q - 1))

    @property
    def public(self) -> bytes:
        """SubjectPublicKeyInfo."""
        return der(SEQUENCE, algorithm(RSA), der(BITS, b"\0", der(SEQUENCE, number(self.modulus), number(EXPONENT))))

    def sign(self, data: bytes) -> bytes:
        """RSASSA-PKCS1-v1_5 with SHA-1."""
        info = der(SEQUENCE, algorithm(DIGESTS["sha1"]), der(OCTETS, hashlib.sha1(data).digest()))
        padded = b"\0\1" + b"\xff" * (KEY_BITS // 8 - len(info) - 3) + b"\0" + info
        return pow(int.from_bytes(padded, "big"), self._secret, self.modulus).to_bytes(KEY_BITS // 8, "big")


def _prime(bits: int) -> int:
    while True:
        candidate = secrets.randbits(bits) | 3 << bits - 2 | 1
        if math.gcd(candidate, SMALL_PRIMES) != 1 or not (candidate - 1) % EXPONENT:
            continue
        if all(pow(base, candidate - 1, candidate) == 1 for base in (2, 3, 5)):
            return candidate


@dataclass(frozen=True)
class Authority:
    """A certificate authority, trusted where its certificate is among the roots."""

    common: str
    key: Key = field(default_factory=Key, repr=False)

    @property
    def certificate(self) -> bytes:
        """Its self-signed certificate, in DER."""
        extensions = [
            der(SEQUENCE, oid("2.5.29.19"), der(BOOLEAN, b"\xff"), der(OCTETS, der(SEQUENCE, der(BOOLEAN, b"\xff")))),
            der(SEQUENCE, oid("2.5.29.15"), der(BOOLEAN, b"\xff"), der(OCTETS, der(BITS, b"\1\6"))),  # signs those
        ]
        return self._certify(self.common, self.key, 1, LONG_AGO, extensions)

    def signer(self, common: str, *, since: datetime = LONG_AGO) -> "Signer":
        """A code signer with that name."""
        key, serial = Key(), secrets.randbits(63)
        usage = der(SEQUENCE, oid("2.5.29.37"), der(OCTETS, der(SEQUENCE, oid("1.3.6.1.5.5.7.3.3"))))
        return Signer(self, key, serial, self._certify(common, key, serial, since, [usage]))

    def _certify(self, common: str, key: Key, serial: int, since: datetime, extensions: list[bytes]) -> bytes:
        to_be_signed = der(
            SEQUENCE,
            der(CONSTRUCTED, number(2)),  # version 3
            number(serial),
            algorithm(SHA1_RSA),
            name(self.common),
            der(SEQUENCE, time(since), time(FAR_AWAY)),
            name(common),
            key.public,
            der(CONSTRUCTED | 3, der(SEQUENCE, *extensions)),
        )
        signature = der(BITS, b"\0", self.key.sign(to_be_signed))
        return der(SEQUENCE, to_be_signed, algorithm(SHA1_RSA), signature)


# -------------------------------------------------------------------------------------------------------- catalogues


@dataclass(frozen=True)
class Signer:
    """A signer of catalogues."""

    authority: Authority
    key: Key = field(repr=False)
    serial: int
    certificate: bytes = field(repr=False)

    def catalogue(self, *hashes: bytes, is_signed: bool = True) -> bytes:
        """A catalogue that lists files by these hashes, SHA-1 or SHA-256: a .cat file."""
        content = b"".join([
            der(SEQUENCE, oid(CATALOG_LIST)),
            der(OCTETS, secrets.token_bytes(16)),  # its identifier
            time(datetime(2024, 1, 1)),
            der(SEQUENCE, oid(CATALOG_MEMBER), der(NULL)),
            der(SEQUENCE, *map(_member, hashes)),
        ])  # fmt: skip
        signed = b"".join(sorted([
            attribute(CONTENT_TYPE, oid(TRUST_LIST)),
            attribute(MESSAGE_DIGEST, der(OCTETS, hashlib.sha1(content).digest())),
        ]))  # fmt: skip
        info = der(
            SEQUENCE,
            number(1),
            der(SEQUENCE, name(self.authority.common), number(self.serial)),
            algorithm(DIGESTS["sha1"]),
            der(CONSTRUCTED, signed),
            algorithm(RSA),
            der(OCTETS, self.key.sign(der(SET, signed))),
        )
        message = der(
            SEQUENCE,
            number(1),
            der(SET, algorithm(DIGESTS["sha1"])),
            der(SEQUENCE, oid(TRUST_LIST), der(CONSTRUCTED, der(SEQUENCE, content))),
            der(CONSTRUCTED, self.certificate, self.authority.certificate),
            der(SET, info if is_signed else b""),
        )
        return der(SEQUENCE, oid(SIGNED_DATA), der(CONSTRUCTED, message))


def tag(digest: bytes) -> bytes:
    """A catalogue's spelling of the hash by which it lists a member.

    >>> tag(bytes([0xab])).decode("utf-16-le")
    'AB\\x00'
    """
    return f"{digest.hex().upper()}\0".encode("utf-16-le")


def _member(digest: bytes) -> bytes:
    kind = {20: "sha1", 32: "sha256"}[len(digest)]
    link = der(CONSTRUCTED, der(CONSTRUCTED | 2, der(CONTEXT, "<<<Obsolete>>>".encode("utf-16-be"))))
    image = der(SEQUENCE, oid(PE_IMAGE_DATA), der(SEQUENCE, der(BITS, b"\0"), link))
    indirect = der(SEQUENCE, image, der(SEQUENCE, algorithm(DIGESTS[kind]), der(OCTETS, digest)))
    info = der(SEQUENCE, der(BMP, PE_SUBJECT.encode("utf-16-be")), number(0x200))
    attributes = sorted([attribute(MEMBER_INFO, info), attribute(INDIRECT_DATA, indirect)])
    return der(SEQUENCE, der(OCTETS, tag(digest)), der(SET, *attributes))


# ---------------------------------------------------------------------------------------------------------- programs


def small_program(note: bytes = b"") -> bytes:
    """Almost the smallest 64-bit program that runs: it ends with 0. Different notes make different files."""
    image = bytearray(0x400)
    image[:2] = b"MZ"
    header = 0x40
    struct.pack_into("<I", image, 0x3C, header)
    struct.pack_into("<4sHHIIIHH", image, header, b"PE\0\0", 0x8664, 1, 0, 0, 0, 0xF0, 0x22)
    struct.pack_into("<HBBIIIII", image, header + 24, 0x20B, 1, 0, 0x200, 0, 0, 0x1000, 0x1000)
    base, alignments, versions, sizes = 0x140000000, (0x1000, 0x200), (6, 0, 0, 0, 6, 0, 0), (0x2000, 0x200)
    console, characteristics, memory = 3, 0x8160, (0x100000, 0x1000, 0x100000, 0x1000)
    values = (base, *alignments, *versions, *sizes, 0, console, characteristics, *memory, 0, 16)
    struct.pack_into("<QIIHHHHHHIIIIHHQQQQII", image, header + 48, *values)
    section = (b".text", 0x1000, 0x1000, 0x200, 0x200, 0, 0, 0, 0, 0x60000020)
    struct.pack_into("<8sIIIIIIHHI", image, header + 24 + 0xF0, *section)
    image[0x200:0x203] = b"\x31\xc0\xc3"  # xor eax, eax; ret
    image[0x300 : 0x300 + len(note)] = note
    return bytes(image)


def image_hash(image: bytes, kind: str) -> bytes:
    """The hash of an unsigned image, without its checksum and its signature's directory entry."""
    optional = struct.unpack_from("<I", image, 0x3C)[0] + 24
    is_wide = struct.unpack_from("<H", image, optional)[0] == 0x20B
    checksum, security = optional + 64, optional + (144 if is_wide else 128)
    parts = image[:checksum], image[checksum + 4 : security], image[security + 8 :], bytes(-len(image) % 8)
    return hashlib.new(kind, b"".join(parts)).digest()
