"""Texts of a process made to fit into the columns of a terminal."""

import ntpath
import re
import unicodedata

from ..audit import NO_TERMINAL
from ..records import DecidedBy, Decision, ProcessHelper
from ..util.paths import lowercase
from ..util.printable import printable

__all__ = ["arguments_of", "authority", "cut", "fit", "short_path", "width", "wrap"]

GAP = "..."


def authority(decision: Decision) -> str:
    """Who decided, as lines and trees show it."""
    if decision.by is DecidedBy.RULE:
        return f"rule {decision.who}"
    if decision.by is DecidedBy.USER:
        return "you"
    if decision.by is DecidedBy.DEFAULT and decision.reason == NO_TERMINAL:
        return NO_TERMINAL
    by: str = decision.by.value
    return by


def width(text: str) -> int:
    """The columns of a text on a terminal: two for an East Asian wide character, none for a combining one."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def cut(text: str, columns: int) -> str:
    """The text, or as much of its beginning as fits before three dots.

    >>> cut("cmd /c build.cmd", 11)
    'cmd /c b...'
    """
    if width(text) <= columns:
        return text
    return text[: _fitting(text, columns - len(GAP))] + GAP


def wrap(text: str, columns: int | None) -> list[str]:
    """The whole text, in lines of at most `columns`; None: in one line."""
    lines = []
    while columns is not None and width(text) > columns:
        end = max(1, _fitting(text, columns))
        lines.append(text[:end])
        text = text[end:]
    return [*lines, text]


def short_path(path: str, columns: int) -> str:
    r"""The path, or its ends: the name, the first folder, and as many of the last folders as fit.

    >>> print(short_path(r"c:\users\ada\appdata\local\temp\is-4f2k1.tmp\setup.exe", 36))
    c:\users\...\is-4f2k1.tmp\setup.exe
    >>> print(short_path(r"c:\users\ada\a-name-that-says-all-there-is-to-say.exe", 24))
    a-name-that...to-say.exe
    """
    if width(path) <= columns:
        return path
    *folders, name = path.split("\\")
    for first in (folders[:2], folders[:1], []):
        fewest = max(len(first) + 1, len(folders) - columns)  # each folder takes a column at least, for its backslash
        for last in range(fewest, len(folders) + 1):
            short = "\\".join([*first, GAP, *folders[last:], name])
            if width(short) <= columns:
                return short
    if width(name) <= columns:
        return name
    end = name[-min(13, (columns - len(GAP)) // 2) :]  # with the extension
    return name[: _fitting(name, columns - len(GAP) - width(end))] + GAP + end


def fit(path: str, arguments: str, columns: int) -> tuple[str, str]:
    """A path and arguments in at most `columns`, two between them; a long path leaves a third to the arguments."""
    if not arguments:
        return short_path(path, columns), ""
    spare = columns - 2 - width(arguments)
    path = short_path(path, max(spare, columns * 2 // 3 - 2))
    return path, cut(arguments, columns - 2 - width(path))


_BLANKS = " \t"
"""The separators of arguments: Windows splits at nothing else, not even at other blanks of Unicode."""

_PROGRAM = re.compile(r"""(?:"[^"]*(?:"|\Z)|[^ \t"])*""")
"""The program's name in a command line. A quote that is not closed reaches to the end of the line."""


def arguments_of(process: ProcessHelper) -> str:
    r"""The command line, without the program's name if that is the name of the image.

    >>> from procmon import SimulatedGate
    >>> arguments_of(SimulatedGate().start("c:/windows/cmd.exe", command_line=r'"C:\Windows\CMD.EXE" /c build'))
    '/c build'
    >>> arguments_of(SimulatedGate().start("c:/windows/cmd.exe", command_line="notepad /c build"))
    'notepad /c build'
    """
    text = (process.command_line or "").strip(_BLANKS)
    path = len(process.image_name)
    if path and lowercase(text[:path]) == process.image_name and not text[path : path + 1].strip(_BLANKS):
        return printable(text[path:].strip(_BLANKS))  # not in quotes, although it may have blanks
    first = _PROGRAM.match(text)
    if first is not None:
        program = ntpath.basename(lowercase(first[0].replace('"', "")))
        if program in (process.name, process.name.removesuffix(".exe")):
            text = text[first.end() :].strip(_BLANKS)
    return printable(text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _fitting(text: str, columns: int) -> int:
    """How many leading characters fit."""
    if text.isascii():
        return max(0, min(len(text), columns))
    total = 0
    for index, character in enumerate(text):
        total += _columns(character)
        if total > columns:
            return index
    return len(text)
