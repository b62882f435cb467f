"""Letter case: gates, patterns and policies distinguish the characters that Windows distinguishes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import procmon
from procmon.util.globs import compile_glob
from procmon.util.paths import fold_case, lowercase

APART = dict(
    zip("\u01c5\u01c8\u01cb\u01f2\u03f4\u1e9e\u2126\u212a\u212b\U00010400", "ǆǉǌǳθßωkå\U00010428", strict=True)
)
"""Characters with the letter that Python lowers them to; tests/windows/test_letter_case.py asks Windows about all."""


@pytest.mark.parametrize(("apart", "letter"), APART.items())
def test_two_files_for_windows_are_two_files(apart: str, letter: str) -> None:
    gate = procmon.SimulatedGate()
    assert apart.lower() == letter  # otherwise this test would show nothing
    assert lowercase(f"C:/{apart}") == f"c:\\{apart}"
    for pattern in (f"c:/{letter}it/**", f"c:/{letter}it/evil.exe", f"**/{letter}it/*"):
        assert not compile_glob(pattern)(f"c:/{apart}it/evil.exe")
        assert compile_glob(pattern)(f"c:/{letter}it/evil.exe")
    evil = gate.start(f"C:/{apart}it/Evil.exe")
    assert evil.image_name == f"c:\\{apart}it\\evil.exe"
    policy = procmon.Policy.parse(f"default = 'block'\n[[rule]]\nimage = 'c:/{letter}it/**'\nverdict = 'allow'")
    assert policy.decide(evil).verdict is procmon.BLOCK
    assert policy.decide(gate.start(f"c:/{letter}it/evil.exe")).verdict is procmon.ALLOW


@given(st.text())
def test_each_character_is_lowered_by_itself(text: str) -> None:
    assert fold_case(text) == "".join(map(fold_case, text))
    assert len(fold_case(text)) == len(text)
    assert fold_case(fold_case(text)) == fold_case(text)


def test_letters_of_many_scripts_are_lowered() -> None:
    assert fold_case("ΟΔΟΣ ÄÖÜ ЖЩ ԱԲ ǅ İ") == "οδοσ äöü жщ աբ ǅ İ"
