"""Finding which of many literal texts stand in one text, in a time that hardly depends on how many there are."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping

__all__ = ["Literals"]

_GRAM = 4
_FEW = {4: 16, 2: 256, 1: 512}
"""Up to so many literals are sooner looked for one by one; by their stride, for a small one needs more cuts."""

_COMMON = (
    r'"c:\windows\system32\windowspowershell\v1.0\powershell.exe" -c:\program files (x86)\c:\users\appdata\local\temp'
    r"cmd.exe /c -command http://https://www. software\microsoft\windows\currentversion\ /add /create --"
)
"""What is often seen in command lines and paths, so that a literal is not looked for by a piece of this."""


class Literals:
    r"""Literal texts, each with the positions of rules that need it.

    A text is cut into pieces of four characters, one after the other. Each literal of seven characters or more is
    listed under four successive pieces of its own, one of which the cut must hit, so that a set of a text's pieces
    says which literals may be in it. That costs some 10 ns a character, whatever the text and the literals are.
    Shorter ones are listed under two pieces or one, and looked up in two or four cuts. Literals below four characters,
    and a few of any length, are looked for one by one. What a piece hints at is compared with the text itself.

    A regular expression made of a trie takes ten times as long on real rules, for their literals begin with nearly
    every character; see docs/rejected.md.

    >>> literals = Literals({"mimikatz": [0, 7], " -enc": [3]})
    >>> sorted(literals.find(r"c:\x\mimikatz.exe a"))
    [0, 7]
    """

    def __init__(self, positions: Mapping[str, Iterable[int]]) -> None:
        self._positions = {literal: tuple(found) for literal, found in positions.items()}
        by_stride: dict[int, list[str]] = {}
        for literal in self._positions:
            by_stride.setdefault(_stride(literal), []).append(literal)
        cut = {stride: found for stride, found in by_stride.items() if stride and len(found) > _FEW[stride]}
        single = [literal for stride, found in by_stride.items() if stride not in cut for literal in found]
        self._single = [(_bytes_of(literal).decode("latin-1"), literal) for literal in single]
        often = Counter(_pieces(_COMMON))
        often.update(piece for literal in self._positions for piece in _pieces(literal))
        self._cuts = [(_Pieces(found, stride, often), range(0, _GRAM, stride)) for stride, found in cut.items()]
        """Literals by their pieces, with the places where the cuts of a text begin that meet one of these."""

    def find(self, text: str) -> list[int]:
        """The positions of every literal that stands in `text`; some may come more than once."""
        data = _bytes_of(text)
        narrow = text if text.isascii() else data.decode("latin-1")  # Python searches a wide text four times as long
        found = [literal for short, literal in self._single if short in narrow and literal in text]
        if self._cuts:
            cut: set[str] = set()
            for pieces, starts in self._cuts:
                for start in starts:
                    pieces.find(data, text, start, cut)
            found += cut
        return [position for literal in found for position in self._positions[literal]] if found else []


class _Pieces:
    """Literals by some of their pieces, these as numbers."""

    def __init__(self, literals: Iterable[str], stride: int, often: Mapping[str, int]) -> None:
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

    def find(self, data: bytes, text: str, start: int, found: set[str]) -> None:
        """Add the literals that are in `text`, of those of which a piece is in the cut of `data` from `start` on.

        A piece that is there is looked at in its place, so that a text made of near misses takes no longer.
        """
        numbers = array("I")
        numbers.frombytes(data[start : start + (len(data) - start) // _GRAM * _GRAM])
        if self._numbers.isdisjoint(numbers):
            return
        listed = self._listed
        for i in [i for i, number in enumerate(numbers) if number in listed]:
            for at, length, literals in listed[numbers[i]]:
                begin = start + i * _GRAM - at
                if text[begin : begin + length] in literals and begin >= 0:
                    found.add(text[begin : begin + length])


def _bytes_of(text: str) -> bytes:
    """One byte for each character, "?" for an odd one, so that texts of all scripts are searched alike."""
    return text.encode("latin-1", "replace")


def _stride(literal: str) -> int:
    """Of as many successive pieces of a literal, one begins at a multiple of it; 0 for a literal without a piece."""
    return next((stride for stride in (4, 2, 1) if len(literal) >= _GRAM + stride - 1), 0)


def _pieces(text: str) -> list[str]:
    return [text[i : i + _GRAM] for i in range(len(text) - _GRAM + 1)]
