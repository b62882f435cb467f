r"""Patterns for image names: ``notepad.exe``, ``c:/tools/*.exe``, ``**/temp/**``.

The same patterns serve ``match=`` of a monitor and ``image =`` of a policy:

    ?     one character of a part        *     any characters of a part        **    any characters, across parts
    **/   any folders, or none           [ ]   are themselves: Windows allows them in names

Case does not count, ``/`` and ``\`` are equal, and a pattern without either is compared with the last part alone.
Texts that have no parts, such as command lines, have globs of their own: ``*`` is any characters, ``?`` is any one.

No name or text can make a comparison slow: no expression in this module backtracks behind a wildcard.
"""

import re
from collections.abc import Callable

from .paths import lowercase

__all__ = ["WILDCARD", "compile_glob", "last_part", "literal_runs", "path_glob", "text_glob"]

WILDCARD = re.compile("[*?]")
"""Characters that make a text a pattern."""

_ACROSS = re.compile(r"((?<![^\\])\*\*+\\|\*\*+)")  # stars at the end of a part leave its separator in the text


def compile_glob(pattern: str) -> Callable[[str], bool]:
    r"""A function that returns whether an image name matches.

    >>> from procmon.util.globs import compile_glob
    >>> matches = compile_glob("C:/Users/**/*.exe")
    >>> matches(r"c:\users\ann\downloads\setup.exe"), matches(r"c:\windows\notepad.exe")
    (True, False)
    >>> compile_glob("note*")(r"c:\windows\notepad.exe")
    True

    Raises: ValueError when the pattern is empty.
    """
    if not pattern.strip():
        raise ValueError('an empty pattern matches nothing: write "*" for every image')
    matches = path_glob(lowercase(pattern))
    return lambda image_name: matches(lowercase(image_name))


def path_glob(pattern: str) -> Callable[[str], bool]:
    """`compile_glob` for a pattern and names that `lowercase` has already normalized."""
    compare = _matcher(pattern) if WILDCARD.search(pattern) else pattern.__eq__
    if "\\" in pattern:
        return compare
    return lambda name: compare(last_part(name))


def text_glob(pattern: str) -> Callable[[str], bool]:
    """A test of whole texts in which ``*`` is any characters and ``?`` any one.

    >>> text_glob("* /c format*")("cmd.exe /c format d:")
    True
    """
    pieces = pattern.split("*")
    if "?" not in pattern and len(pieces) == 3 and not pieces[0] and not pieces[2]:
        piece = pieces[1]
        return lambda text: piece in text
    first, *others = (re.escape(piece).replace(r"\?", ".") for piece in pieces)
    source = first + "".join(f"(?>.*?{piece})" for piece in others[:-1]) + (f".*{others[-1]}" if others else "")
    fullmatch = re.compile(source, re.DOTALL).fullmatch
    return lambda text: fullmatch(text) is not None


def literal_runs(pattern: str, *, in_parts: bool) -> list[str]:
    r"""Texts that occur in every match of a pattern.

    >>> literal_runs("**\\temp\\a*.exe", in_parts=True), literal_runs("*-enc*", in_parts=False)
    (['temp\\a', '.exe'], ['-enc'])
    """
    pieces = _ACROSS.split(pattern)[::2] if in_parts else [pattern]
    return [run for piece in pieces for run in WILDCARD.split(piece) if run]


def last_part(name: str) -> str:
    r"""The part of a lowercased name after its last backslash.

    >>> last_part("c:\\tools\\a.exe")
    'a.exe'
    """
    return name[name.rfind("\\") + 1 :]


def _matcher(plain: str) -> Callable[[str], bool]:
    """A regular expression that backtracks behind no wildcard but the last one.

    The text between two wildcards is matched at its first place, and ``(?>`` keeps it there. A later place could not
    help: it leaves only a shorter end of the name to the rest. So no name can make a comparison slow.
    """
    first, *others = _ACROSS.split(plain)
    source = _within(first, last=not others)
    for i in range(0, len(others), 2):
        last = i + 2 == len(others)
        piece = others[i + 1] if others[i].endswith("\\") else "*" + others[i + 1]  # ** is **\*, or * in this part
        found = r"(?:.*?\\)??" + _within(piece, last=last)
        source += found if last else f"(?>{found})"
    fullmatch = re.compile(source, re.DOTALL).fullmatch
    return lambda name: fullmatch(name) is not None


def _within(piece: str, *, last: bool) -> str:
    """The regular expression of a piece without ``**``; the `last` piece must reach the end of the name."""
    first, *others = (re.escape(text).replace(r"\?", r"[^\\]") for text in piece.split("*"))
    kept = "".join(rf"(?>[^\\]*?{text})" for text in (others[:-1] if last else others))
    return first + kept + (rf"[^\\]*{others[-1]}" if last and others else "")
