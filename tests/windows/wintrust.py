"""A wintrust.dll for tests, below procmon's bindings: prototypes, structures and error rules are the real ones.

`Watched(dll)` checks the use of a DLL: each argument, and that each handle is released once and in order. `Wine()` is
Wine's own DLL, which searches catalogues only by SHA-1; `Windows8(folder)` adds the functions of Windows 8 and later.
In both, Wine's WinVerifyTrust checks the signatures.
"""

import ctypes
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from authenticode import image_hash, tag
from procmon.win32 import trust

__all__ = ["Watched", "Windows8", "Wine"]

HANDLE, DWORD, BOOL = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32
ERROR_INVALID_PARAMETER, ERROR_NOT_FOUND = 87, 1168
GENERIC_VERIFY_V2 = uuid.UUID("00AAC56B-CD44-11D0-8CC2-00C04FC295EE").bytes_le
FILE, CATALOG = 1, 2
VERIFY, CLOSE = 1, 2
OFFLINE = 0x10 | 0x1000  # no revocation is checked, and nothing is fetched
MAX_PATH = 260

# Results and parameters as in mscat.h and wintrust.h; pointers are passed as addresses.
PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "CryptCATAdminAcquireContext": (BOOL, HANDLE, HANDLE, DWORD),
    "CryptCATAdminAcquireContext2": (BOOL, HANDLE, HANDLE, ctypes.c_wchar_p, HANDLE, DWORD),
    "CryptCATAdminCalcHashFromFileHandle": (BOOL, HANDLE, HANDLE, HANDLE, DWORD),
    "CryptCATAdminCalcHashFromFileHandle2": (BOOL, HANDLE, HANDLE, HANDLE, HANDLE, DWORD),
    "CryptCATAdminEnumCatalogFromHash": (HANDLE, HANDLE, HANDLE, DWORD, DWORD, HANDLE),
    "CryptCATCatalogInfoFromContext": (BOOL, HANDLE, HANDLE, DWORD),
    "CryptCATAdminReleaseCatalogContext": (BOOL, HANDLE, HANDLE, DWORD),
    "CryptCATAdminReleaseContext": (BOOL, HANDLE, DWORD),
    "WinVerifyTrust": (ctypes.c_int32, HANDLE, HANDLE, HANDLE),
}


def failed(error: int) -> int:
    """0, the result of a failed function, with its last error."""
    ctypes.set_last_error(error)
    return 0


class Wine:
    """Wine's own, as on Windows before 8: Wine 8's functions for a search by SHA-256 only fail, and are left out."""

    has_sha256 = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._dll = ctypes.WinDLL("wintrust.dll", use_last_error=True)

    def __getitem__(self, name: str) -> Any:
        """The function, as from GetProcAddress. Raises: AttributeError when there is none."""
        if name.endswith("2"):
            raise AttributeError(f"function {name!r} not found")
        function = self._dll[name]
        if name in PROTOTYPES:
            function.restype, *function.argtypes = PROTOTYPES[name]
        return function


@dataclass
class Search:
    """For the catalogues of a folder that list a SHA-256."""

    digest: bytes = b""
    left: Iterator[Path] = field(default_factory=lambda: iter(()))


class Windows8(Wine):
    """Wine's DLL with an added search by SHA-256, whose invented handles are all different."""

    has_sha256 = True

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._handles = iter(range(0x7A000000, 0x7F000000, 8))
        self._searches: dict[int, Search] = {}
        self._found: dict[int, Path] = {}

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name) if hasattr(type(self), name) else super().__getitem__(name)

    def _real(self, name: str, *arguments: object) -> int:
        result: int = super().__getitem__(name)(*arguments)
        return result

    def CryptCATAdminAcquireContext2(self, into: int, subsystem: int, algorithm: str, policy: int, flags: int) -> int:
        admin = next(self._handles)
        HANDLE.from_address(into).value, self._searches[admin] = admin, Search()
        return 1

    def CryptCATAdminCalcHashFromFileHandle2(self, admin: int, file: int, size: int, digest: int, flags: int) -> int:
        self._searches[admin].digest = image_hash(content_of(file), "sha256")
        ctypes.memmove(digest, self._searches[admin].digest, 32)
        DWORD.from_address(size).value = 32
        return 1

    def CryptCATAdminEnumCatalogFromHash(
        self, admin: int, digest: int, size: int, flags: int, previous: int
    ) -> int | None:
        if admin not in self._searches:
            return self._real("CryptCATAdminEnumCatalogFromHash", admin, digest, size, flags, previous)
        search = self._searches[admin]
        if HANDLE.from_address(previous).value is None:
            wanted = tag(search.digest)
            search.left = iter([path for path in sorted(self._folder.glob("*.cat")) if wanted in path.read_bytes()])
        path = next(search.left, None)
        if path is None:
            return failed(ERROR_NOT_FOUND)
        found = next(self._handles)
        self._found[found] = path
        return found

    def CryptCATCatalogInfoFromContext(self, catalog: int, info: int, flags: int) -> int:
        if catalog not in self._found:
            return self._real("CryptCATCatalogInfoFromContext", catalog, info, flags)
        (ctypes.c_wchar * MAX_PATH).from_address(info + 4).value = str(self._found[catalog])
        return 1

    def CryptCATAdminReleaseCatalogContext(self, admin: int, catalog: int, flags: int) -> int:
        if catalog not in self._found:
            return self._real("CryptCATAdminReleaseCatalogContext", admin, catalog, flags)
        return 1

    def CryptCATAdminReleaseContext(self, admin: int, flags: int) -> int:
        if admin not in self._searches:
            return self._real("CryptCATAdminReleaseContext", admin, flags)
        return 1


class Wine10(Windows8):
    """Makes a SHA-256, but searches only by SHA-1."""

    has_sha256 = False

    def CryptCATAdminEnumCatalogFromHash(
        self, admin: int, digest: int, size: int, flags: int, previous: int
    ) -> int | None:
        if admin in self._searches:
            return failed(ERROR_INVALID_PARAMETER)
        return super().CryptCATAdminEnumCatalogFromHash(admin, digest, size, flags, previous)


class Watched:
    """Checks each call, and passes it on."""

    def __init__(self, dll: Wine) -> None:
        self.dll = dll
        self.open: list[tuple[str, int]] = []
        """The handles not released yet, the oldest first, each with its kind."""
        self.wrong: list[str] = []
        """The mistakes in the calls."""
        self.failing: dict[str, int] = {}
        """Functions that fail, each with its last error."""
        self.verified: list[str] = []
        """The catalogues that WinVerifyTrust was asked about."""
        self._digest = b""  # of the file, by the context that is open
        self._catalog = ""  # the path of the one that is open

    def __getitem__(self, name: str) -> Any:
        function = self.dll[name]
        if name not in PROTOTYPES:
            return function
        result, *parameters = PROTOTYPES[name]
        check = getattr(self, name)

        def call(*arguments: Any) -> Any:
            if name in self.failing:
                return failed(self.failing[name])
            try:
                return check(function, *arguments)
            except Exception as error:  # it would be lost: C code is between this and the test
                self.wrong.append(f"{name}{arguments}: {error!r}")
                return failed(87)

        return ctypes.WINFUNCTYPE(result, *parameters, use_last_error=True)(call)

    def _hand_out(self, kind: str, handle: int | None) -> None:
        assert handle and (kind, handle) not in self.open
        self.open.append((kind, handle))

    def _take_back(self, kind: str, handle: int | None) -> None:
        assert self.open and self.open[-1] == (kind, handle), f"not the {kind} that was opened last: {self.open}"
        self.open.pop()

    # ----------------------------------------------------------------------------------- contexts, and the file's hash

    def CryptCATAdminAcquireContext(self, function: Callable[..., int], into: int, subsystem: int, flags: int) -> int:
        assert not subsystem and flags == 0
        assert function(into, subsystem, flags)
        self._hand_out("admin", HANDLE.from_address(into).value)
        return 1

    def CryptCATAdminAcquireContext2(
        self, function: Callable[..., int], into: int, subsystem: int, algorithm: str, policy: int, flags: int
    ) -> int:
        assert not subsystem and algorithm == "SHA256" and not policy and flags == 0
        assert function(into, subsystem, algorithm, policy, flags)
        self._hand_out("admin", HANDLE.from_address(into).value)
        return 1

    def CryptCATAdminCalcHashFromFileHandle(
        self, function: Callable[..., int], file: int, size: int, digest: int, flags: int
    ) -> int:
        assert DWORD.from_address(size).value >= 20 and flags == 0
        assert function(file, size, digest, flags)
        self._digest = ctypes.string_at(digest, DWORD.from_address(size).value)
        return 1

    def CryptCATAdminCalcHashFromFileHandle2(
        self, function: Callable[..., int], admin: int, file: int, size: int, digest: int, flags: int
    ) -> int:
        assert self.open == [("admin", admin)] and DWORD.from_address(size).value >= 32 and flags == 0
        assert function(admin, file, size, digest, flags)
        self._digest = ctypes.string_at(digest, DWORD.from_address(size).value)
        return 1

    def CryptCATAdminReleaseContext(self, function: Callable[..., int], admin: int, flags: int) -> int:
        assert flags == 0
        self._take_back("admin", admin)
        return function(admin, flags)

    # -------------------------------------------------------------------------------------------------- the catalogues

    def CryptCATAdminEnumCatalogFromHash(
        self, function: Callable[..., int | None], admin: int, digest: int, size: int, flags: int, previous: int
    ) -> int | None:
        assert self.open[0] == ("admin", admin) and flags == 0
        assert ctypes.string_at(digest, size) == self._digest, "not the hash of this context"
        before = HANDLE.from_address(previous)
        if before.value is not None:
            self._take_back("catalogue", before.value)
        found = function(admin, digest, size, flags, previous)
        before.value = None  # as Windows leaves it
        if found:
            self._hand_out("catalogue", found)
        return found

    def CryptCATCatalogInfoFromContext(self, function: Callable[..., int], catalog: int, info: int, flags: int) -> int:
        assert self.open[-1] == ("catalogue", catalog) and flags == 0
        assert DWORD.from_address(info).value == 4 + 2 * MAX_PATH, "not the size of a CATALOG_INFO"
        assert function(catalog, info, flags)
        self._catalog = (ctypes.c_wchar * MAX_PATH).from_address(info + 4).value
        return 1

    def CryptCATAdminReleaseCatalogContext(
        self, function: Callable[..., int], admin: int, catalog: int, flags: int
    ) -> int:
        assert self.open[0] == ("admin", admin) and flags == 0
        self._take_back("catalogue", catalog)
        return function(admin, catalog, flags)

    # --------------------------------------------------------------------------------------------------- the signature

    def WinVerifyTrust(self, function: Callable[..., int], window: int, action: int, address: int) -> int:
        data = trust._TrustData.from_address(address)
        assert window == HANDLE(-1).value, "there is no user to ask"
        assert ctypes.string_at(action, 16) == GENERIC_VERIFY_V2
        assert (data.size, data.ui, data.revocation, data.flags) == (ctypes.sizeof(data), 2, 0, OFFLINE)
        if data.action == CLOSE:
            self._take_back("state", data.state)
            return function(window, action, address)
        assert data.action == VERIFY and data.state is None and data.choice in (FILE, CATALOG)
        if data.choice == CATALOG:
            self._look_at(trust._CatalogMember.from_address(data.what))
        code = function(window, action, address)
        self._hand_out("state", data.state)
        return code

    def _look_at(self, member: trust._CatalogMember) -> None:
        """A catalogue's member is verified while both contexts are open, by the hash that found it."""
        [(_, admin), (_, _)] = self.open
        digest = HANDLE.from_address(ctypes.addressof(member) + trust._CatalogMember.hash.offset)
        assert member.size == ctypes.sizeof(member) and member.version == 0 and not member.catalog_context
        assert ctypes.string_at(digest.value or 0, member.hash_size) == self._digest
        assert member.member_tag == self._digest.hex().upper()
        assert member.catalog_admin == admin, "without the context the hash is taken for a SHA-1"
        assert member.catalog_path == self._catalog
        assert Path(member.member_path).read_bytes() == content_of(member.member_file)
        self.verified.append(Path(member.catalog_path).name)


def content_of(file: int) -> bytes:
    """All bytes of an open file, whatever its position."""
    name = ctypes.create_unicode_buffer(1024)
    assert ctypes.WinDLL("kernel32.dll").GetFinalPathNameByHandleW(HANDLE(file), name, len(name), 0)
    return Path(name.value).read_bytes()
