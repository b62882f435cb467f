"""The Authenticode signature of a file, embedded or by catalogue, checked without the network."""

import enum
from contextlib import closing
from dataclasses import dataclass
from io import BufferedReader

from ..win32 import files, trust

__all__ = ["Signature", "SignatureKind", "SignatureStatus", "find_signature"]


class SignatureStatus(enum.Enum):
    """Windows' judgement of a signature, made without the network.

    >>> import procmon
    >>> procmon.SignatureStatus("tampered")
    <SignatureStatus.TAMPERED: 'tampered'>
    """

    VALID = "valid"
    UNSIGNED = "unsigned"
    TAMPERED = "tampered"
    """The file was changed after it was signed."""
    UNTRUSTED = "untrusted"
    """Signed, by a signer that this machine does not trust."""
    EXPIRED = "expired"
    REVOKED = "revoked"
    INVALID = "invalid"
    """Any other fault; see `Signature.code`."""


class SignatureKind(enum.Enum):
    """Where a signature is.

    >>> import procmon
    >>> procmon.Signature(procmon.SignatureStatus.VALID, procmon.SignatureKind.CATALOG)
    <Signature valid, catalog>
    """

    EMBEDDED = "embedded"
    """In the file itself."""
    CATALOG = "catalog"
    """In a catalogue that lists the file, as for most of Windows' own programs."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Signature:
    """The Authenticode signature of a file.

    >>> Signature(SignatureStatus.VALID, SignatureKind.EMBEDDED, "Example Ltd")
    <Signature valid, embedded, by 'Example Ltd'>
    """

    status: SignatureStatus
    """Windows' judgement of it."""
    kind: SignatureKind
    """Where it is."""
    subject: str | None = None
    """The signer's simple display name in the certificate; proved only with status VALID."""
    code: int = 0
    """The result of WinVerifyTrust, unsigned: 0 for a good signature, else an error such as 0x800B0100."""
    catalog: str | None = None
    """Path of the catalogue."""
    publisher: str | None = None
    """The signer as AppLocker writes it, from the same certificate: ``O=..., L=..., S=..., C=...``."""

    def __repr__(self) -> str:
        words = [self.status.value]
        if self.kind is not SignatureKind.NONE:
            words.append(self.kind.value)
        if self.subject is not None:
            words.append(f"by {self.subject!r}")
        if self.code and self.status is not SignatureStatus.UNSIGNED:
            words.append(f"0x{self.code:08X}")
        return f"<Signature {', '.join(words)}>"


_STATUS = {
    0x00000000: SignatureStatus.VALID,
    0x800B0100: SignatureStatus.UNSIGNED,  # TRUST_E_NOSIGNATURE
    0x800B0003: SignatureStatus.UNSIGNED,  # TRUST_E_SUBJECT_FORM_UNKNOWN: such a file cannot have one
    0x800B0001: SignatureStatus.UNSIGNED,  # TRUST_E_PROVIDER_UNKNOWN
    0x80096010: SignatureStatus.TAMPERED,  # TRUST_E_BAD_DIGEST
    0x800B0004: SignatureStatus.UNTRUSTED,  # TRUST_E_SUBJECT_NOT_TRUSTED
    0x800B0109: SignatureStatus.UNTRUSTED,  # CERT_E_UNTRUSTEDROOT
    0x800B010A: SignatureStatus.UNTRUSTED,  # CERT_E_CHAINING
    0x800B010D: SignatureStatus.UNTRUSTED,  # CERT_E_UNTRUSTEDTESTROOT
    0x800B0112: SignatureStatus.UNTRUSTED,  # CERT_E_UNTRUSTEDCA
    0x800B0111: SignatureStatus.UNTRUSTED,  # TRUST_E_EXPLICIT_DISTRUST
    0x800B0101: SignatureStatus.EXPIRED,  # CERT_E_EXPIRED
    0x800B010C: SignatureStatus.REVOKED,  # CERT_E_REVOKED
}


def find_signature(path: str, file: BufferedReader) -> Signature:
    """The signature of an open file. Raises: OSError when the catalogues cannot be searched."""
    handle = files.handle_of(file)
    embedded = trust.verify_embedded(path, handle)
    status = _STATUS.get(embedded.code, SignatureStatus.INVALID)
    if status is not SignatureStatus.UNSIGNED:
        return Signature(status, SignatureKind.EMBEDDED, embedded.subject, embedded.code, publisher=embedded.publisher)
    best = Signature(SignatureStatus.UNSIGNED, SignatureKind.NONE, None, embedded.code)
    file.seek(0)  # Windows hashes the whole file in any case, Wine only the rest from here
    with closing(trust.verify_by_catalogs(path, handle)) as answers:
        for catalog, answer in answers:
            status = _STATUS.get(answer.code, SignatureStatus.INVALID)
            if status is not SignatureStatus.UNSIGNED:  # the catalogue itself can be unsigned
                best = Signature(status, SignatureKind.CATALOG, answer.subject, answer.code, catalog, answer.publisher)
            if status is SignatureStatus.VALID:
                break
    return best
