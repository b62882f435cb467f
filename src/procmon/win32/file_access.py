r"""Accounts besides administrators that can change a file, by the security descriptors of it and the folders above.

A user must not be able to replace a file that the kernel or a system service runs. The descriptor is read as text
(SDDL), whose grammar is small and the same on every Windows.
https://learn.microsoft.com/windows/win32/secauthz/security-descriptor-string-format
https://learn.microsoft.com/windows/win32/secauthz/ace-strings
"""

import ctypes
import os
import re
import stat
from collections.abc import Iterator
from ctypes import POINTER, byref, c_void_p, c_wchar_p
from functools import cache
from pathlib import PureWindowsPath

from ._bind import BOOL, DWORD, HANDLE, advapi32, bind, fail_on_zero, kernel32, never_fails, windows_error
from .kernel import is_wine, local_free, open_process
from .token import open_token, sid_text, user_sid

__all__ = [
    "changers_of",
    "how_to_protect",
    "icacls_line",
    "is_link",
    "make_private_folder",
    "others_in",
    "readers",
    "writers",
]

_SE_FILE_OBJECT = 1
_OWNER, _DACL = 0x1, 0x4
_SDDL_REVISION = 1

_TRUSTED = {
    "SY", "S-1-5-18",  # the system
    "BA", "S-1-5-32-544",  # administrators
    "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464",  # NT SERVICE\TrustedInstaller
}  # fmt: skip

_NAMES = {
    "WD": "Everyone", "S-1-1-0": "Everyone", "AU": "Authenticated Users", "S-1-5-11": "Authenticated Users",
    "BU": "Users", "S-1-5-32-545": "Users", "IU": "Interactive", "S-1-5-4": "Interactive", "BG": "Guests",
    "PU": "Power Users", "CO": "Creator Owner", "OW": "Owner Rights",
}  # fmt: skip

# Rights of files and folders (winnt.h), and SDDL's letters for groups of them.
_DELETE, _WRITE_DAC, _WRITE_OWNER = 0x10000, 0x40000, 0x80000
_REPLACE = _DELETE | _WRITE_DAC | _WRITE_OWNER
_WRITE_DATA, _APPEND_DATA, _DELETE_CHILD = 0x2, 0x4, 0x40
_READ_DATA, _EXECUTE = 0x1, 0x20
_GENERIC_READ, _GENERIC_WRITE, _GENERIC_EXECUTE, _GENERIC_ALL = 0x80000000, 0x40000000, 0x20000000, 0x10000000
_LETTERS = {
    "GA": _GENERIC_ALL, "GW": _GENERIC_WRITE, "GR": _GENERIC_READ, "GX": _GENERIC_EXECUTE,
    "RC": 0x20000, "SD": _DELETE, "WD": _WRITE_DAC, "WO": _WRITE_OWNER,
    "FA": 0x1F01FF, "FR": 0x120089, "FW": 0x120116, "FX": 0x1200A0,
    "CC": 0x1, "DC": 0x2, "LC": 0x4, "SW": 0x8, "RP": 0x10, "WP": 0x20, "DT": 0x40, "LO": 0x80, "CR": 0x100,
}  # fmt: skip

RENAME = _REPLACE | _DELETE_CHILD | _GENERIC_ALL
"""Of a folder further up: to replace the file or folder below it."""

READ = _READ_DATA | _EXECUTE | _GENERIC_READ | _GENERIC_EXECUTE | _GENERIC_ALL
"""Of a file: to open it for reading. Of a folder: to list it; its files inherit the rights."""

CHANGE = RENAME | _WRITE_DATA | _APPEND_DATA | _GENERIC_WRITE
"""Of a file: to write or replace it. Of a folder: to add or remove files, or to replace it."""

# https://learn.microsoft.com/windows/win32/fileio/reparse-point-tags: the bit of each tag whose file stands for another
_NAME_SURROGATE = 0x20000000

# https://learn.microsoft.com/windows/win32/api/aclapi/nf-aclapi-getnamedsecurityinfow
# DWORD GetNamedSecurityInfoW(LPCWSTR name, SE_OBJECT_TYPE type, SECURITY_INFORMATION information, PSID *owner,
#                             PSID *group, PACL *dacl, PACL *sacl, PSECURITY_DESCRIPTOR *descriptor);
_GetNamedSecurityInfoW = bind(
    advapi32,
    "GetNamedSecurityInfoW",
    DWORD,
    (c_wchar_p, ctypes.c_int32, DWORD, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)),
    never_fails,
)

# https://learn.microsoft.com/windows/win32/api/aclapi/nf-aclapi-getsecurityinfo
# DWORD GetSecurityInfo(HANDLE handle, ...as above);
_GetSecurityInfo = bind(
    advapi32,
    "GetSecurityInfo",
    DWORD,
    (HANDLE, ctypes.c_int32, DWORD, c_void_p, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)),
    never_fails,
)

# https://learn.microsoft.com/windows/win32/api/sddl/nf-sddl-convertsecuritydescriptortostringsecuritydescriptorw
# BOOL ConvertSecurityDescriptorToStringSecurityDescriptorW(PSECURITY_DESCRIPTOR descriptor, DWORD revision,
#                             SECURITY_INFORMATION information, LPWSTR *text, PULONG length);
_ConvertToText = bind(
    advapi32,
    "ConvertSecurityDescriptorToStringSecurityDescriptorW",
    BOOL,
    (c_void_p, DWORD, DWORD, POINTER(c_void_p), c_void_p),
    fail_on_zero,
)

# https://learn.microsoft.com/windows/win32/api/sddl/nf-sddl-convertstringsecuritydescriptortosecuritydescriptorw
# BOOL ConvertStringSecurityDescriptorToSecurityDescriptorW(LPCWSTR text, DWORD revision,
#                             PSECURITY_DESCRIPTOR *descriptor, PULONG size);   freed by LocalFree
_ConvertFromText = bind(
    advapi32,
    "ConvertStringSecurityDescriptorToSecurityDescriptorW",
    BOOL,
    (c_wchar_p, DWORD, POINTER(c_void_p), c_void_p),
    fail_on_zero,
)


class _SecurityAttributes(ctypes.Structure):  # SECURITY_ATTRIBUTES
    _fields_ = (("size", DWORD), ("descriptor", c_void_p), ("inherit", BOOL))


# https://learn.microsoft.com/windows/win32/api/fileapi/nf-fileapi-createdirectoryw
# BOOL CreateDirectoryW(LPCWSTR path, LPSECURITY_ATTRIBUTES attributes);
_CreateDirectoryW = bind(kernel32, "CreateDirectoryW", BOOL, (c_wchar_p, POINTER(_SecurityAttributes)), fail_on_zero)


def descriptor(of: str | int) -> str:
    """Owner and access list, as SDDL, of the file or folder with this path or open handle. Raises: OSError."""
    holder, text = c_void_p(), c_void_p()
    kinds = _OWNER | _DACL
    get = _GetNamedSecurityInfoW if isinstance(of, str) else _GetSecurityInfo
    if code := get(of, _SE_FILE_OBJECT, kinds, None, None, None, None, byref(holder)):
        raise windows_error("GetNamedSecurityInfoW" if isinstance(of, str) else "GetSecurityInfo", code)
    try:
        _ConvertToText(holder, _SDDL_REVISION, kinds, byref(text), None)
        try:
            return ctypes.wstring_at(text.value or 0)
        finally:
            local_free(text)
    finally:
        local_free(holder)


def others_in(sddl: str, rights: int = CHANGE, trusted: frozenset[str] = frozenset()) -> list[str]:
    """The accounts besides administrators and the system that own an object, or have some of these rights on it.

    Deny entries are ignored: an account that one entry allows and another denies counts. Entries that only children
    inherit do not count.

    >>> others_in("O:BAG:SYD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)")
    []
    >>> others_in("O:S-1-5-21-1-2-3-1001D:(A;;FA;;;BA)(A;;0x1301bf;;;AU)")
    ['S-1-5-21-1-2-3-1001', 'Authenticated Users']
    """
    found: dict[str, None] = {}
    owner = re.search(r"O:(S-[0-9-]+|[A-Z]{2})", sddl)
    if owner is None:
        found["an unknown owner"] = None
    elif owner[1] not in _TRUSTED | trusted:
        found[_name(owner[1])] = None
    _, has_list, access = sddl.partition("D:")
    if not has_list or "NO_ACCESS_CONTROL" in access.partition("(")[0]:
        found["Everyone"] = None  # a missing list grants everything to everyone; an empty list, nothing
        return list(found)
    for entry in _entries(access):
        kind, flags, granted, _, _, account = (entry.split(";") + [""] * 6)[:6]
        allows = kind in ("A", "OA", "XA", "ZA") and "IO" not in re.findall("..", flags)
        if allows and account not in _TRUSTED | trusted and _rights(granted) & rights:
            found[_name(account)] = None
    return list(found)


def changers_of(handle: int) -> list[str]:
    """The accounts besides administrators that can write to the open file, or let themselves do so. Raises: OSError."""
    return others_in(descriptor(handle), CHANGE, _own_account())


def writers(path: str) -> dict[str, list[str]]:
    r"""By path, the accounts besides administrators that can change or replace the file or folder.

    A folder, and the folder of a file, counts when others can add or remove files in it. Folders further up count only
    when others can rename their contents: what users add beside a folder (they can in ``C:\ProgramData``) replaces
    nothing in it.

    Raises: OSError, such as FileNotFoundError.
    """
    found = {}
    for each, rights in _to_check(path):
        if others := others_in(descriptor(each), rights, _own_account()):
            found[each] = others
    return found


def readers(path: str) -> list[str]:
    """The accounts besides administrators that can read the file or folder, and so keep others from opening it.

    Who opens a file for reading and shares it with no one makes every other open fail until the handle is closed.
    https://learn.microsoft.com/windows/win32/fileio/creating-and-opening-files

    Raises: OSError, such as FileNotFoundError.
    """
    return others_in(descriptor(path), READ, _own_account())


def is_link(path: str) -> bool:
    """Whether this is a link, a junction or a mounted volume.

    `writers` has the rights of what it leads to, which do not say who can make it lead elsewhere.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(status.st_mode) or bool(getattr(status, "st_reparse_tag", 0) & _NAME_SURROGATE)


def make_private_folder(path: str) -> None:
    """Make a folder that only administrators and the system can read and change. Raises: OSError."""
    holder = c_void_p()
    _ConvertFromText(_PRIVATE, _SDDL_REVISION, byref(holder), None)
    try:
        attributes = _SecurityAttributes(ctypes.sizeof(_SecurityAttributes), holder, 0)
        _CreateDirectoryW(path, byref(attributes))
    finally:
        local_free(holder)


_PRIVATE = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)"


def icacls_line(path: str, *, folder: bool, private: bool = False) -> str:
    """The command, for an administrator's prompt, that lets only administrators change a file or folder.

    With `private`, only they can read it, too.

    /reset removes rights granted to other accounts; /grant:r alone would leave them.
    """
    inherit = "(OI)(CI)" if folder else ""
    grants = " ".join(f"*{sid}:{inherit}{right}" for sid, right in (_PRIVATE_GRANTS if private else _GRANTS))
    steps = ["/setowner *S-1-5-32-544", "/reset", f"/inheritance:r /grant:r {grants}"]
    return " && ".join(f'icacls "{path}" {step}' for step in steps)


def how_to_protect(path: str, *, folder: bool, private: bool = False) -> str:
    """What an administrator does so that only administrators can change, or with `private` read, a file or folder.

    The rights of a drive's root and of ProgramData are never to be changed: other programs rely on them.
    """
    place = PureWindowsPath(path)
    if place.parent == place or place.name.casefold() == "programdata":
        return f"move the file from {path} to a folder that only administrators can change"
    return icacls_line(path, folder=folder, private=private)


_PRIVATE_GRANTS = [("S-1-5-18", "F"), ("S-1-5-32-544", "F")]
_GRANTS = [*_PRIVATE_GRANTS, ("S-1-5-32-545", "RX")]


def _to_check(path: str) -> Iterator[tuple[str, int]]:
    parts = [str(PureWindowsPath(path)), *map(str, PureWindowsPath(path).parents)]
    near = 1 if os.path.isdir(path) else 2
    for number, each in enumerate(parts):
        yield each, CHANGE if number < near else RENAME


def _entries(access: str) -> Iterator[str]:
    """The entries of an access list, without their brackets. An entry's condition has brackets of its own, and its
    double-quoted texts can contain some, too.
    """
    depth = begin = 0
    for found in re.finditer(r'"[^"]*"|[()]', access):
        if found[0] == "(":
            begin = found.end() if depth == 0 else begin
            depth += 1
        elif found[0] == ")":
            depth -= 1
            if depth == 0:
                yield access[begin : found.start()]


def _rights(text: str) -> int:
    """The access mask of an entry; all rights if it has letters that are unknown here."""
    if re.fullmatch(r"0[xX][0-9a-fA-F]+|[0-9]+", text):
        return int(text, 0)
    rights = 0
    for pair in re.findall("..", text):
        rights |= _LETTERS.get(pair, -1)
    return rights


def _name(account: str) -> str:
    return _NAMES.get(account, account)


@cache
def _own_account() -> frozenset[str]:
    """On Wine, which has no administrators, the one account, which owns everything. On Windows none."""
    if not is_wine():
        return frozenset()
    with open_process(os.getpid()) as process, open_token(process) as token:
        return frozenset([sid_text(user_sid(token))])
