"""compile_glob: the meaning of a pattern for image names."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from procmon.util.globs import compile_glob

NAME = r"c:\users\ann\downloads\setup.exe"


@pytest.mark.parametrize("pattern", [
    "setup.exe", "SETUP.EXE", "set*", "*.exe", "s?tup.exe", "*",
    NAME, "C:/Users/Ann/Downloads/Setup.exe", r"c:\users\*\downloads\*.exe", "c:/users/**/setup.exe", "c:/users/**",
    "**/setup.exe", "**/downloads/*", "c:/users/ann/downloads/**/setup.exe", "**", "**/**/setup.exe",
    "c:/**.exe", "**set**",
])  # fmt: skip
def test_it_matches(pattern: str) -> None:
    assert compile_glob(pattern)(NAME)
    assert compile_glob(pattern)(NAME.replace("\\", "/").upper())


@pytest.mark.parametrize("pattern", [
    "setup", "downloads", "?etup?.exe", "set[u]p.exe", "setup.exe ",
    "c:/users/*/setup.exe", "c:/users/*", r"*\setup.exe", "/setup.exe", "**/ownloads/**", "users/**",
    "c:/users**/ann/x", "c:/use**/tup.exe",
])  # fmt: skip
def test_it_does_not_match(pattern: str) -> None:
    assert not compile_glob(pattern)(NAME)


def test_brackets_dots_and_other_signs_are_themselves() -> None:
    assert compile_glob("a[1]+(x).exe")("c:\\a[1]+(x).exe")
    assert not compile_glob("a.exe")("aXexe")


def test_a_name_without_folders_matches_any_folders_or_none() -> None:
    assert compile_glob("**/a.exe")("a.exe")
    assert not compile_glob("**/a.exe")("ba.exe")


def test_a_program_at_the_root_of_a_server_has_a_last_part_too() -> None:
    assert compile_glob("a.exe")("//server/a.exe")
    assert compile_glob("*.exe")("//server/a.exe")


@pytest.mark.parametrize("pattern", ["", "  "])
def test_an_empty_pattern_is_an_error(pattern: str) -> None:
    with pytest.raises(ValueError, match="empty pattern"):
        compile_glob(pattern)


parts = st.lists(st.text("ab.", min_size=1, max_size=3), min_size=1, max_size=4)


@given(parts)
def test_every_path_matches_itself_and_its_last_part(path: str) -> None:
    name = "\\".join(path)
    assert compile_glob(name)(name)
    assert compile_glob(path[-1])(name)
    assert compile_glob("**/" + path[-1])(name)


def slow_match(pattern: str, name: str) -> bool:
    """The definition, character by character."""
    if not pattern:
        return not name
    if pattern.startswith("**\\"):
        rest = pattern[3:]
        return slow_match(rest, name) or any(
            slow_match(rest, name[at + 1 :]) for at, sign in enumerate(name) if sign == "\\"
        )
    if pattern.startswith("**"):
        return any(slow_match(pattern[2:], name[at:]) for at in range(len(name) + 1))
    if pattern[0] == "*":
        part = name.partition("\\")[0]
        return any(slow_match(pattern[1:], name[at:]) for at in range(len(part) + 1))
    return (
        bool(name)
        and (name[0] == pattern[0] or (pattern[0] == "?" and name[0] != "\\"))
        and slow_match(pattern[1:], name[1:])
    )


pieces = st.lists(st.sampled_from(["a", "b", "\\", "?", "*", "**", "\\**\\"]), max_size=9)


@settings(max_examples=500)
@given(st.tuples(pieces, st.sampled_from(["**\\", "\\**", "\\"]), pieces), st.text("ab\\", max_size=9))
def test_it_agrees_with_the_definition(pattern: str, name: str) -> None:
    text = "".join([*pattern[0], pattern[1], *pattern[2]])
    if "***" in text or re.search(r"[^\\]\*\*\\", text):
        return  # three stars in a row, and stars that end a part, have a test of their own
    assert compile_glob(text)(name) == slow_match(text, name)


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("**/a/**/b/**/a/**/b/*.exe", "c:" + r"\a\b" * 8000 + r"\x.com"),
        ("c:/*a*b*a*b*a*b*.exe", "c:\\" + "ab" * 120 + ".com"),
        ("**a**b**a**b**x", "ab" * 16_000),
        ("**/*a*b*a*.exe", "c:\\" + "\\".join(["ab" * 120] * 130)),
        ("**a*b", "a" * 120_000),
        ("**a*b**c", "a" * 120_000),
        ("**a*a*a/b*c/*x", "a" * 60_000 + "\\" + "b" * 60_000),
    ],
)
def test_no_name_takes_long_to_compare(pattern: str, name: str) -> None:
    """An attacker chooses the names, and a comparison delays all other threads."""
    begin = time.thread_time()  # CPU time of this thread, whatever else the machine does
    assert not compile_glob(pattern)(name)
    assert time.thread_time() - begin < 5


def test_three_stars_are_two_and_stars_that_end_a_part_need_its_separator() -> None:
    assert compile_glob("c:/***/setup.exe")(NAME)
    assert compile_glob("c:/us**/setup.exe")(NAME)
    assert not compile_glob("c:/us**/etup.exe")(NAME)
