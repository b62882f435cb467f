"""The 32-bit half of a 64-bit Windows, as far as a 64-bit debugger needs to know it."""

import ntpath
from functools import cache

from ..win32.debug import DISPATCHER
from ..win32.files import open_shared, system_folder
from .pe import PortableExecutable

__all__ = ["narrow_dispatcher"]


def narrow_dispatcher(ntdll: int) -> int:
    """The address in a 32-bit process of the function through which the kernel raises exceptions; 0 if unknown.

    `ntdll` is the address of its 32-bit ntdll.dll, or 0.
    """
    offset = _offset() if ntdll else 0
    return ntdll + offset if offset else 0


@cache
def _offset() -> int:
    try:
        with open_shared(ntpath.join(ntpath.dirname(system_folder()), "SysWOW64", "ntdll.dll")) as file:
            return PortableExecutable(file).export(DISPATCHER) or 0
    except (OSError, ValueError):  # a Windows without such a half
        return 0
