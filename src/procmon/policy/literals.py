"""Finds which of many literal texts occur in one text, in a time that hardly depends on their number."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["Literals"]

_GRAM = 4
_LONG = 7
"""A text of this length contains, at any offset, one piece of four characters that begins at a multiple of 4."""

_FEW = 16
_FEW_SHORT = 128
"""Up to these numbers of literals, long and short, a search one by one is faster."""

_COMMON = (
    r'"c:\windows\system32\windowspowershell\v1.0\powershell.exe" -c:\program files (x86)\c:\users\appdata\local\temp'
    r"cmd.exe /c -command http://https://www. software\microsoft\windows\currentversion\ /add /create --"
)
"""Frequent texts in command lines and paths; a literal is listed under other pieces if possible."""


class Literals:
    r"""Literal texts, each with the positions of rules that need it.

    A text is cut into consecutive pieces of four characters. Each literal of seven characters or more is listed under
    four successive pieces of its own. If the text contains the literal, the cut hits one of them, so the set of the
    text's pieces determines which literals it can contain. Shorter literals are listed under one piece and looked up in
    all four cuts. Literals below four characters, and a few of any length, are searched one by one. Each candidate is
    compared with the text itself.

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
        """The positions of every literal that occurs in `text`, some of them possibly more than once."""
        data = _bytes_of(text)
        narrow = text if text.isascii() else data.decode("latin-1")  # Python searches a wide text four times slower
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
    """Literals by some of their pieces, stored as numbers."""

    def __init__(self, literals: Iterable[str], stride: int, often: Mapping[str, int]) -> None:
        """List each literal under `stride` successive pieces: the rarest sequence."""
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
        """By number: the piece's offset in a literal, the literal's length, and the literals of that kind."""
        self._numbers = frozenset(self._listed)

    def find(self, data: bytes, cuts: int, text: str) -> set[str]:
        """The literals that are in `text`. `data` is the text's bytes, cut into pieces once for each of `cuts` offsets.

        A listed piece is compared only at its place, so a text made of near misses takes no longer.
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
    """One byte for each character, "?" outside Latin-1, so that texts of all scripts are searched alike."""
    return text.encode("latin-1", "replace")


def _pieces(text: str) -> list[str]:
    return [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
