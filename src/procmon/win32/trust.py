"""Authenticode: whether Windows trusts a file's signature, in the file itself or in a catalogue, and its signer.

Nothing here uses the network: no revocation list and no missing certificate is fetched.
"""

import ctypes
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final, NamedTuple, SupportsInt

from ._bind import (
    BOOL,
    DWORD,
    HANDLE,
    INVALID_HANDLE_VALUE,
    Library,
    bind,
    fail_on_zero,
    last_error,
    never_fails,
    windows_error,
)
from .codes import ERROR_CALL_NOT_IMPLEMENTED, ERROR_INVALID_PARAMETER, code_of

__all__ = ["TrustAnswer", "verify_by_catalogs", "verify_embedded"]

wintrust = Library("wintrust.dll")
crypt32 = Library("crypt32.dll")

_WTD_UI_NONE: Final = 2
_WTD_REVOKE_NONE: Final = 0
_WTD_CHOICE_FILE: Final = 1
_WTD_CHOICE_CATALOG: Final = 2
_WTD_STATEACTION_VERIFY: Final = 1
_WTD_STATEACTION_CLOSE: Final = 2
_WTD_REVOCATION_CHECK_NONE: Final = 0x10
_WTD_CACHE_ONLY_URL_RETRIEVAL: Final = 0x1000
_CERT_NAME_ATTR_TYPE: Final = 3
_CERT_NAME_SIMPLE_DISPLAY_TYPE: Final = 4
_PUBLISHER_PARTS = (("O", b"2.5.4.10"), ("L", b"2.5.4.7"), ("S", b"2.5.4.8"), ("C", b"2.5.4.6"))
"""The parts of a subject that form AppLocker's publisher, in its order, with their object identifiers (X.520)."""
_NOTHING_FOUND: Final = (0, 2, 18, 1168)
"""The last error if no catalogue lists a file: ERROR_NOT_FOUND on Windows, "no (more) files" on Wine."""
_HASHES = ("SHA256", None)
"""The hashes by which catalogues name their members: today's, and SHA-1, the only one before Windows 8."""


class _Guid(ctypes.Structure):
    _fields_ = [("data1", DWORD), ("data2", ctypes.c_uint16), ("data3", ctypes.c_uint16), ("data4", ctypes.c_uint8 * 8)]


_GENERIC_VERIFY_V2 = _Guid(0x00AAC56B, 0xCD44, 0x11D0, (0x8C, 0xC2, 0x00, 0xC0, 0x4F, 0xC2, 0x95, 0xEE))


class _FileInfo(ctypes.Structure):
    """WINTRUST_FILE_INFO."""

    _fields_ = [
        ("size", DWORD),
        ("path", ctypes.c_wchar_p),
        ("file", HANDLE),
        ("known_subject", ctypes.POINTER(_Guid)),
    ]


class _CatalogMember(ctypes.Structure):
    """WINTRUST_CATALOG_INFO."""

    _fields_ = [
        ("size", DWORD),
        ("version", DWORD),
        ("catalog_path", ctypes.c_wchar_p),
        ("member_tag", ctypes.c_wchar_p),
        ("member_path", ctypes.c_wchar_p),
        ("member_file", HANDLE),
        ("hash", ctypes.c_char_p),
        ("hash_size", DWORD),
        ("catalog_context", ctypes.c_void_p),
        ("catalog_admin", HANDLE),
    ]


class _TrustData(ctypes.Structure):
    """WINTRUST_DATA."""

    _fields_ = [
        ("size", DWORD),
        ("policy_data", ctypes.c_void_p),
        ("sip_data", ctypes.c_void_p),
        ("ui", DWORD),
        ("revocation", DWORD),
        ("choice", DWORD),
        ("what", ctypes.c_void_p),
        ("action", DWORD),
        ("state", HANDLE),
        ("url", ctypes.c_wchar_p),
        ("flags", DWORD),
        ("ui_context", DWORD),
        ("signature_settings", ctypes.c_void_p),
    ]


class _ProviderCert(ctypes.Structure):
    """The head of CRYPT_PROVIDER_CERT."""

    _fields_ = [("size", DWORD), ("context", ctypes.c_void_p)]


class _CatalogInfo(ctypes.Structure):
    """CATALOG_INFO."""

    _fields_ = [("size", DWORD), ("path", ctypes.c_wchar * 260)]


# https://learn.microsoft.com/windows/win32/api/wintrust/nf-wintrust-winverifytrust
# LONG WinVerifyTrust(HWND hwnd, GUID *pgActionID, LPVOID pWVTData);
_WinVerifyTrust = bind(
    wintrust, "WinVerifyTrust", ctypes.c_int32, (HANDLE, ctypes.POINTER(_Guid), ctypes.POINTER(_TrustData)), never_fails
)

# https://learn.microsoft.com/windows/win32/api/wintrust/nf-wintrust-wthelperprovdatafromstatedata
# CRYPT_PROVIDER_DATA *WTHelperProvDataFromStateData(HANDLE hStateData);
_WTHelperProvDataFromStateData = bind(
    wintrust, "WTHelperProvDataFromStateData", ctypes.c_void_p, (HANDLE,), never_fails
)

# https://learn.microsoft.com/windows/win32/api/wintrust/nf-wintrust-wthelpergetprovsignerfromchain
# CRYPT_PROVIDER_SGNR *WTHelperGetProvSignerFromChain(CRYPT_PROVIDER_DATA *, DWORD signer, BOOL counter, DWORD which);
_WTHelperGetProvSignerFromChain = bind(
    wintrust,
    "WTHelperGetProvSignerFromChain",
    ctypes.c_void_p,
    (ctypes.c_void_p, DWORD, BOOL, DWORD),
    never_fails,
)

# https://learn.microsoft.com/windows/win32/api/wintrust/nf-wintrust-wthelpergetprovcertfromchain
# CRYPT_PROVIDER_CERT *WTHelperGetProvCertFromChain(CRYPT_PROVIDER_SGNR *pSgnr, DWORD idxCert);
_WTHelperGetProvCertFromChain = bind(
    wintrust,
    "WTHelperGetProvCertFromChain",
    ctypes.POINTER(_ProviderCert),
    (ctypes.c_void_p, DWORD),
    never_fails,
)

# https://learn.microsoft.com/windows/win32/api/wincrypt/nf-wincrypt-certgetnamestringw
# DWORD CertGetNameStringW(PCCERT_CONTEXT, DWORD type, DWORD flags, void *parameter, LPWSTR name, DWORD characters);
_CertGetNameStringW = bind(
    crypt32,
    "CertGetNameStringW",
    DWORD,
    (ctypes.c_void_p, DWORD, DWORD, ctypes.c_char_p, ctypes.c_wchar_p, DWORD),
    never_fails,
)

# https://learn.microsoft.com/windows/win32/api/mscat/nf-mscat-cryptcatadminacquirecontext2
# BOOL CryptCATAdminAcquireContext2(HCATADMIN *, const GUID *subsystem, PCWSTR hash, PCCERT_STRONG_SIGN_PARA, DWORD 0);
_CryptCATAdminAcquireContext2 = bind(
    wintrust,
    "CryptCATAdminAcquireContext2",
    BOOL,
    (ctypes.POINTER(HANDLE), ctypes.c_void_p, ctypes.c_wchar_p, ctypes.c_void_p, DWORD),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/mscat/nf-mscat-cryptcatadminacquirecontext
# BOOL CryptCATAdminAcquireContext(HCATADMIN *phCatAdmin, const GUID *pgSubsystem, DWORD dwFlags);
_CryptCATAdminAcquireContext = bind(
    wintrust, "CryptCATAdminAcquireContext", BOOL, (ctypes.POINTER(HANDLE), ctypes.c_void_p, DWORD), fail_on_zero
)

# https://learn.microsoft.com/windows/win32/api/mscat/nf-mscat-cryptcatadmincalchashfromfilehandle2
# BOOL CryptCATAdminCalcHashFromFileHandle2(HCATADMIN, HANDLE file, DWORD *bytes, BYTE *hash, DWORD 0);
_CryptCATAdminCalcHashFromFileHandle2 = bind(
    wintrust,
    "CryptCATAdminCalcHashFromFileHandle2",
    BOOL,
    (HANDLE, HANDLE, ctypes.POINTER(DWORD), ctypes.c_void_p, DWORD),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/mscat/nf-mscat-cryptcatadmincalchashfromfilehandle
# BOOL CryptCATAdminCalcHashFromFileHandle(HANDLE file, DWORD *bytes, BYTE *hash, DWORD 0);
_CryptCATAdminCalcHashFromFileHandle = bind(
    wintrust,
    "CryptCATAdminCalcHashFromFileHandle",
    BOOL,
    (HANDLE, ctypes.POINTER(DWORD), ctypes.c_void_p, DWORD),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/mscat/nf-mscat-cryptcatadminenumcatalogfromhash
# HCATINFO CryptCATAdminEnumCatalogFromHash(HCATADMIN, BYTE *hash, DWORD bytes, DWORD 0, HCATINFO *previous);
# It frees the previous one, even if there is no next: https://github.com/microsoft/Windows-classic-samples/issues/101
_CryptCATAdminEnumCatalogFromHash = bind(
    wintrust,
    "CryptCATAdminEnumCatalogFromHash",
    HANDLE,
    (HANDLE, ctypes.c_char_p, DWORD, DWORD, ctypes.POINTER(HANDLE)),
    never_fails,
)

# https://learn.microsoft.com/windows/win32/api/mscat/nf-mscat-cryptcatcataloginfofromcontext
# BOOL CryptCATCatalogInfoFromContext(HCATINFO hCatInfo, CATALOG_INFO *psCatInfo, DWORD dwFlags);
_CryptCATCatalogInfoFromContext = bind(
    wintrust, "CryptCATCatalogInfoFromContext", BOOL, (HANDLE, ctypes.POINTER(_CatalogInfo), DWORD), fail_on_zero
)

# https://learn.microsoft.com/windows/win32/api/mscat/nf-mscat-cryptcatadminreleasecatalogcontext
# BOOL CryptCATAdminReleaseCatalogContext(HCATADMIN, HCATINFO, DWORD);   and ...ReleaseContext(HCATADMIN, DWORD)
_CryptCATAdminReleaseCatalogContext = bind(
    wintrust, "CryptCATAdminReleaseCatalogContext", BOOL, (HANDLE, HANDLE, DWORD), never_fails
)
_CryptCATAdminReleaseContext = bind(wintrust, "CryptCATAdminReleaseContext", BOOL, (HANDLE, DWORD), never_fails)


class TrustAnswer(NamedTuple):
    """The result of WinVerifyTrust."""

    code: int
    """0 for a good signature; else its unsigned error code, such as 0x800B0100."""
    subject: str | None
    """The simple display name of the signer's certificate, trusted or not."""
    publisher: str | None = None
    """Organization, place, state and country of that certificate, as far as it has them: ``O=..., L=..., S=..., C=...``
    """


def verify_embedded(path: str, file: SupportsInt) -> TrustAnswer:
    """Check the signature in an open file."""
    what = _FileInfo(ctypes.sizeof(_FileInfo), path, int(file), None)
    return _verify(_WTD_CHOICE_FILE, what)


def verify_by_catalogs(path: str, file: SupportsInt) -> Generator[tuple[str, TrustAnswer], None, None]:
    """Check an open file against each installed catalogue that lists it; yields the catalogue's path and the answer.

    It searches by SHA-256 (Windows 8 and later), then by SHA-1. Close the generator to end the search.
    Raises: OSError when the catalogues cannot be searched, or the file has no hash.
    """
    for algorithm in _HASHES:
        with ExitStack() as stack:
            try:
                admin, digest = stack.enter_context(_catalog_admin(algorithm, file))
            except AttributeError:  # Windows 7 has no such function
                continue
            except OSError as error:
                if code_of(error) != ERROR_CALL_NOT_IMPLEMENTED:  # Wine has the function, but it does nothing
                    raise
                continue
            for catalog in stack.enter_context(closing(_catalog_paths(admin, digest, algorithm))):
                member = _CatalogMember(
                    size=ctypes.sizeof(_CatalogMember),
                    catalog_path=catalog,
                    member_tag=digest.hex().upper(),
                    member_path=path,
                    member_file=int(file),
                    hash=digest,
                    hash_size=len(digest),
                    catalog_admin=admin,  # without it Windows takes the hash for a SHA-1
                )
                yield catalog, _verify(_WTD_CHOICE_CATALOG, member)


def _verify(choice: int, what: ctypes.Structure) -> TrustAnswer:
    data = _TrustData(
        size=ctypes.sizeof(_TrustData),
        ui=_WTD_UI_NONE,
        revocation=_WTD_REVOKE_NONE,
        choice=choice,
        what=ctypes.addressof(what),
        action=_WTD_STATEACTION_VERIFY,
        flags=_WTD_REVOCATION_CHECK_NONE | _WTD_CACHE_ONLY_URL_RETRIEVAL,
    )
    code = _WinVerifyTrust(INVALID_HANDLE_VALUE, _GENERIC_VERIFY_V2, data)
    try:
        certificate = _certificate(data.state)
        return TrustAnswer(code & 0xFFFFFFFF, _subject(certificate), _publisher(certificate))
    finally:
        data.action = _WTD_STATEACTION_CLOSE
        _WinVerifyTrust(INVALID_HANDLE_VALUE, _GENERIC_VERIFY_V2, data)


def _certificate(state: int | None) -> int | None:
    """The CERT_CONTEXT of the signer, which lives as long as the state."""
    provider = _WTHelperProvDataFromStateData(state) if state else None
    signer = _WTHelperGetProvSignerFromChain(provider, 0, False, 0) if provider else None
    found = _WTHelperGetProvCertFromChain(signer, 0) if signer else None
    context: int | None = found.contents.context if found else None
    return context


def _subject(certificate: int | None) -> str | None:
    return _name(certificate, _CERT_NAME_SIMPLE_DISPLAY_TYPE, None)


def _publisher(certificate: int | None) -> str | None:
    parts = ((key, _name(certificate, _CERT_NAME_ATTR_TYPE, oid)) for key, oid in _PUBLISHER_PARTS)
    return ", ".join(f"{key}={value}" for key, value in parts if value is not None) or None


def _name(certificate: int | None, kind: int, oid: bytes | None) -> str | None:
    if certificate is None:
        return None
    name = ctypes.create_unicode_buffer(512)
    _CertGetNameStringW(certificate, kind, 0, oid, name, len(name))
    return name.value or None


@contextmanager
def _catalog_admin(algorithm: str | None, file: SupportsInt) -> Iterator[tuple[int, bytes]]:
    """A context for searching the catalogues by one kind of hash, and that hash of the file.

    It names no subsystem, as in Microsoft's sample (Windows-classic-samples, CodeSigning).
    """
    admin, digest, size = HANDLE(), ctypes.create_string_buffer(64), DWORD(64)
    if algorithm is not None:
        _CryptCATAdminAcquireContext2(admin, None, algorithm, None, 0)
    else:
        _CryptCATAdminAcquireContext(admin, None, 0)
    try:
        if algorithm is not None:
            _CryptCATAdminCalcHashFromFileHandle2(admin, int(file), size, digest, 0)
        else:
            _CryptCATAdminCalcHashFromFileHandle(int(file), size, digest, 0)
        yield admin.value or 0, digest.raw[: size.value]
    finally:
        _CryptCATAdminReleaseContext(admin, 0)


def _catalog_paths(admin: int, digest: bytes, algorithm: str | None) -> Generator[str, None, None]:
    context = HANDLE(_CryptCATAdminEnumCatalogFromHash(admin, digest, len(digest), 0, HANDLE()))
    # The function returns NULL at the end and on a failure. A failure must not count as "in no catalogue", which would
    # be cached. After the first catalogue the last error is not reliable: other calls may have set it in between.
    if not context.value and (error := last_error()) not in _NOTHING_FOUND:
        if error == ERROR_INVALID_PARAMETER and algorithm is not None:
            return  # Wine 10 computes a SHA-256, but searches only by SHA-1
        raise windows_error("CryptCATAdminEnumCatalogFromHash", error)
    try:
        while context.value:
            info = _CatalogInfo(ctypes.sizeof(_CatalogInfo))
            _CryptCATCatalogInfoFromContext(context, info, 0)
            yield info.path
            context = HANDLE(_CryptCATAdminEnumCatalogFromHash(admin, digest, len(digest), 0, context))
    finally:
        if context.value:
            _CryptCATAdminReleaseCatalogContext(admin, context, 0)
