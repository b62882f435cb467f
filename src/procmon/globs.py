r"""Patterns for image names: ``notepad.exe``, ``c:/tools/*.exe``, ``**/temp/**``.

The same patterns serve ``match=`` of a monitor and ``image =`` of a policy:

    ?     one character of a part        *     any characters of a part        **    any characters, across parts
    **/   any folders, or none           [ ]   are themselves: Windows allows them in names

Case does not count, ``/`` and ``\`` are equal, and a pattern without either is compared with the last part alone.
"""

import ntpath
import re
from collections.abc import Callable

from .wire import lowercase

__all__ = ["compile_glob"]

_WILDCARD = re.compile(r"\*\*+\\|\*\*+|\*|\?")
_AS_REGEX = {"?": r"[^\\]", "*": r"[^\\]*", "**": r".*", "**\\": r"(?:.*\\)?"}


def compile_glob(pattern: str) -> Callable[[str], bool]:
    r"""A function that says whether an image name matches.

    >>> from procmon.globs import compile_glob
    >>> matches = compile_glob("C:/Users/**/*.exe")
    >>> matches(r"c:\users\ann\downloads\setup.exe"), matches(r"c:\windows\notepad.exe")
    (True, False)
    >>> compile_glob("note*")(r"c:\windows\notepad.exe")
    True

    Raises: ValueError when the pattern is empty.
    """
    if not pattern.strip():
        raise ValueError('an empty pattern matches nothing: write "*" for every image')
    plain = lowercase(pattern)
    last_part_only = "\\" not in plain
    compare = _matcher(plain) if _WILDCARD.search(plain) else lambda name: name == plain

    def matches(image_name: str) -> bool:
        name = lowercase(image_name)
        return compare(ntpath.basename(name) if last_part_only else name)

    return matches


def _matcher(plain: str) -> Callable[[str], bool]:
    source, at = "", 0
    for found in _WILDCARD.finditer(plain):
        wildcard = re.sub(r"\*\*+", "**", found[0])
        if wildcard == "**\\" and found.start() and plain[found.start() - 1] != "\\":
            wildcard, tail = "**", r"\\"  # `a**\b`: the stars do not begin a part, so the separator must be there
        else:
            tail = ""
        source += re.escape(plain[at : found.start()]) + _AS_REGEX[wildcard] + tail
        at = found.end()
    fullmatch = re.compile(source + re.escape(plain[at:]), re.DOTALL).fullmatch
    return lambda name: fullmatch(name) is not None
