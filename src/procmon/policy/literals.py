"""Finding which of many literal texts stand in one text, in a time that hardly depends on how many there are."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["Literals"]

_GRAM = 4
_LONG = 7
"""A text of this length holds, wherever it stands, one piece of four characters that begins at a multiple of 4."""

_FEW = 16
_FEW_SHORT = 128
"""Up to so many literals, long and short ones, are sooner looked for one by one."""

_COMMON = (
    r'"c:\windows\system32\windowspowershell\v1.0\powershell.exe" -c:\program files (x86)\c:\users\appdata\local\temp'
    r"cmd.exe /c -command http://https://www. software\microsoft\windows\currentversion\ /add /create --"
)
"""What is often seen in command lines and paths, so that a literal is not looked for by a piece of this."""


class Literals:
    r"""Literal texts, each with the positions of rules that need it.

    A text is cut into pieces of four characters, one after the other. Each literal of seven characters or more is
    listed under four successive pieces of its own, one of which the cut must hit, so that a set of a text's pieces
    says which literals may be in it. Shorter ones are listed under one piece and looked up in all four cuts. Literals
    below four characters, and a few of any length, are looked for one by one. What a piece hints at is compared with
    the text itself.

    The time grows with the text and hardly with the number of literals. docs/rejected.md compares it with a regular
    expression made of a trie.

    >>> literals = Literals({"mimikatz": [0, 7], " -enc": [3]})
    >>> sorted(literals.find(r"c:\x\mimikatz.exe a"))
    [0, 7]
    """

    def __init__(self, positions: Mapping[str, Iterable[int]]) -> None:
        self._positions = {literal: tuple(found) for literal, found in positions.items()}
        long = [literal for literal in self._positions if len(literal) >= _LONG]
        short = [literal for literal in self._positions if _GRAM <= len(literal) < _LONG]
        often = Counter(_pieces(_COMMON))
        often.update(piece for literal in self._positions for piece in _pieces(literal))
        self._long = _Pieces(long, 4, often) if len(long) > _FEW else None
        self._short = _Pieces(short, 1, often) if len(short) > _FEW_SHORT else None
        cut = {*(long if self._long else ()), *(short if self._short else ())}
        self._single = [
            (_bytes_of(literal).decode("latin-1"), literal) for literal in self._positions if literal not in cut
        ]

    def find(self, text: str) -> list[int]:
        """The positions of every literal that stands in `text`; some may come more than once."""
        data = _bytes_of(text)
        narrow = text if text.isascii() else data.decode("latin-1")  # Python searches a wide text four times as long
        found = [literal for short, literal in self._single if short in narrow and literal in text]
        cut = data[: len(data) & -_GRAM]
        if self._long is not None:
            found += self._long.find(cut, 1, text)
        if self._short is not None:
            padded, each = data + bytes(2 * _GRAM), (len(data) // _GRAM + 1) * _GRAM
            cuts = b"".join(padded[start : start + each] for start in range(_GRAM))
            found += self._short.find(cuts, _GRAM, text)
        return [position for literal in found for position in self._positions[literal]] if found else []


class _Pieces:
    """Literals by some of their pieces, these as numbers."""

    def __init__(self, literals: Iterable[str], stride: int, often: Mapping[str, int]) -> None:
        """List each literal under so many successive pieces as `stride`: those that are the rarest together."""
        listed: dict[int, dict[tuple[int, int], list[str]]] = {}
        for literal in literals:
            pieces = _pieces(literal)
            sums = [sum(often[piece] for piece in pieces[i : i + stride]) for i in range(len(pieces) - stride + 1)]
            rarest = sums.index(min(sums))
            for at in range(rarest, rarest + stride):
                [number] = array("I", _bytes_of(pieces[at]))
                listed.setdefault(number, {}).setdefault((at, len(literal)), []).append(literal)
        self._listed = {
            number: tuple((at, length, frozenset(same)) for (at, length), same in places.items())
            for number, places in listed.items()
        }
        """By number: where in a literal the piece stands, how long the literal is, and the literals of that kind."""
        self._numbers = frozenset(self._listed)

    def find(self, data: bytes, cuts: int, text: str) -> set[str]:
        """The literals that are in `text`. `data` is the text's bytes, cut into pieces once for each of `cuts` offsets.

        A piece that is there is looked at in its place, so that a text made of near misses takes no longer.
        """
        numbers = array("I", data)
        found: set[str] = set()
        if self._numbers.isdisjoint(numbers):
            return found
        listed = self._listed
        each = len(numbers) // cuts
        for i in [i for i, number in enumerate(numbers) if number in listed]:
            place = i % each * _GRAM + i // each
            for at, length, literals in listed[numbers[i]]:
                begin = place - at
                if text[begin : begin + length] in literals and begin >= 0:
                    found.add(text[begin : begin + length])
        return found


def _bytes_of(text: str) -> bytes:
    """One byte for each character, "?" for an odd one, so that texts of all scripts are searched alike."""
    return text.encode("latin-1", "replace")


def _pieces(text: str) -> list[str]:
    return [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
