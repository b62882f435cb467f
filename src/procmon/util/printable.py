"""Names and command lines of processes as text that is safe to print on a terminal."""

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""The text with escapes for characters that would move a terminal's cursor or reverse its writing.

    >>> print(printable("a\x1b[2J.exe"))
    a\x1b[2J.exe
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
