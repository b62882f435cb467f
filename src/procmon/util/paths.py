"""Letter case as Windows compares it, and paths in the spelling of the gates."""

import re

__all__ = ["fold_case", "lowercase"]

_ODD = re.compile("([\u01c5\u01c8\u01cb\u01f2\u03f4\u1e9e\u2126\u212a\u212b\u0130\u03a3\U00010000-\U0010ffff])")
"""Characters that `str.lower` and Windows treat differently.

Windows distinguishes nine of them from the letter that Python lowers them to: U+212A KELVIN SIGN is no "k" in a file
name. Python lowers U+0130 to two characters, and a final sigma to a lower case of its own. Windows lowers UTF-16 units,
so no character above U+FFFF has another case.

Source: RtlDowncaseUnicodeChar; tests/windows/test_letter_case.py compares the whole Basic Multilingual Plane.
"""


def fold_case(text: str) -> str:
    r"""`text` with each character lowered by itself, as Windows does; the length never changes.

    >>> fold_case("Notepad"), fold_case("\u212a") == "\u212a"
    ('notepad', True)
    """
    if text.isascii():
        return text.lower()
    kept = _ODD.split(text)  # every second part is one of the odd characters
    for i in range(0, len(kept), 2):
        kept[i] = kept[i].lower()
    return "".join(kept).replace("\u03a3", "\u03c3")


def lowercase(path: str) -> str:
    r"""`path` in the driver's spelling: backslashes, and lower case as Windows has it.

    >>> print(lowercase("C:/Tools/A.exe"))
    c:\tools\a.exe
    """
    return fold_case(path.replace("/", "\\"))
