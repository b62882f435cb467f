"""Shared by the tests of this folder: under Wine, a trusted signer."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import wine_creation as wine_creation
from authenticode import Authority
from driver_fixtures import programs as programs
from driver_fixtures import service as service
from procmon.win32.kernel import is_wine

# A real Windows gets no test authority and no test catalogues. test_details.py uses its own ones.
collect_ignore = [] if is_wine() else ["test_catalogues.py", "test_wine_kernel.py"]

SYSTEM_STORE, CURRENT_USER, X509, REPLACE_EXISTING, FIND_EXISTING = 10, 0x10000, 1, 3, 0xD0000


@pytest.fixture(scope="session", autouse=True)
def authority() -> Iterator[Authority]:
    """The signer that Wine trusts during these tests. Wine reads its store once per process, so this runs first."""
    authority = Authority("Trusted by these tests")
    if not is_wine():
        yield authority
        return
    certificate = authority.certificate
    with roots() as store:
        what = X509, certificate, len(certificate), REPLACE_EXISTING, None
        crypt32("CertAddEncodedCertificateToStore", store, *what)
    yield authority
    with roots() as store:
        same = crypt32("CertCreateCertificateContext", X509, certificate, len(certificate))
        found = crypt32("CertFindCertificateInStore", store, X509, 0, FIND_EXISTING, same, None)
        crypt32("CertDeleteCertificateFromStore", found)
        crypt32("CertFreeCertificateContext", same)


@contextmanager
def roots() -> Iterator[ctypes.c_void_p]:
    """The store of the certificates that this user trusts; a change counts when the store is closed."""
    store = crypt32("CertOpenStore", SYSTEM_STORE, 0, None, CURRENT_USER, "Root")
    yield store
    crypt32("CertCloseStore", store, 0)


def crypt32(name: str, *arguments: object) -> ctypes.c_void_p:
    """Call a function of crypt32.dll; all of them return 0 on failure."""
    function = ctypes.WinDLL("crypt32.dll", use_last_error=True)[name]
    function.restype = ctypes.c_void_p
    result = function(*arguments)
    assert result, ctypes.WinError(ctypes.get_last_error(), name)
    return ctypes.c_void_p(result)
