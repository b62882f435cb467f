"""docs/reference.md matches the sources, and has a text for every public name."""

import re

import procmon
import reference


def test_the_page_is_made_from_the_sources_of_today() -> None:
    made, there = reference.page(), reference.PAGE.read_text(encoding="utf-8")
    assert made == there, "run `python3 tests/reference.py`, and commit docs/reference.md with the docstrings"


def test_every_public_name_is_on_it_once() -> None:
    headings = re.findall(r"^### (\S+)", reference.page(), re.MULTILINE)
    assert sorted(set(headings)) == sorted(headings)
    names = {f"procmon.{name}" for name in procmon.__all__ if name != "audit"}
    names |= {f"procmon.audit.{name}" for name in procmon.audit.__all__ if name not in procmon.__all__}
    assert names <= set(headings)


def test_every_value_of_the_enumerations_has_a_text() -> None:
    page = reference.page()
    for kind in (procmon.Verdict, procmon.DecidedBy, procmon.VerdictResult):
        for member in kind:
            assert re.search(rf'^\| `{member.name} = "{member.value}"` \| \S', page, re.MULTILINE), member
    for flag in procmon.ProcessFlags:
        assert re.search(rf"^\| `{flag.name} = {flag.value:#x}` \| \S", page, re.MULTILINE), flag
