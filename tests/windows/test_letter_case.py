"""Letter case: the library, its patterns and its policies treat names as equal exactly when Windows does."""

import ctypes

from procmon.util.paths import fold_case


def test_every_character_of_the_basic_plane_is_lowered_as_windows_does() -> None:
    downcase = ctypes.WinDLL("ntdll").RtlDowncaseUnicodeChar
    downcase.argtypes = [ctypes.c_wchar]
    downcase.restype = ctypes.c_wchar
    characters = [chr(code) for code in range(1, 0x10000) if not 0xD800 <= code < 0xE000]
    differing = {
        f"U+{ord(char):04X}": (fold_case(char), lower)
        for char in characters
        if char != "/" and fold_case(char) != (lower := downcase(char))
    }
    assert differing == {}
