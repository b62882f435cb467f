"""The breaks of breaks.py still fit the sources, so that breaks.py can run at any time."""

import pytest

from core.breaks import BREAKS, PROJECT, Break, broken


@pytest.mark.parametrize("item", BREAKS, ids=lambda item: item.name)
def test_the_break_still_has_its_place(item: Break) -> None:
    text = (PROJECT / item.file).read_text("utf-8")
    assert broken(item, text) != text
