"""The places of keys and values in a TOML text."""

import pytest

from procmon import Policy
from procmon.policy.toml_positions import Path, TomlPlaces


class TestPlaces:
    @pytest.mark.parametrize(
        ("path", "key", "value"),
        [
            (("mode",), (2, 1), (2, 8)),
            (("a",), (5, 1), (5, 7)),
            (("a", "b"), (5, 1), (5, 7)),
            (("rule", 0), (7, 1), (7, 1)),
            (("rule", 0, "image"), (8, 1), (8, 11)),
            (("rule", 0, "image", 0), (9, 3), (9, 3)),
            (("rule", 0, "image", 1), (10, 3), (10, 3)),
            (("rule", 0, "image", 1, 1), (10, 7), (10, 7)),
            (("rule", 0, "image", 2), (11, 3), (11, 3)),
            (("rule", 0, "image", 2, "x", 0), (11, 9), (11, 9)),
            (("rule", 0, "image", 2, "y z"), (11, 13), (11, 23)),
            (("rule", 1), (12, 1), (12, 1)),
            (("rule", 1, "verdict"), (13, 3), (13, 11)),
            (("rule", 1, "sub", "k"), (15, 1), (15, 5)),
            (("rule", 1, "sub", "l"), (16, 2), (16, 6)),
            (("rule", 1, "sub", "nowhere", 3), (14, 1), (14, 1)),
            (("nowhere", "at", "all"), (1, 1), (1, 1)),
        ],
    )
    def test_every_way_to_write_it(self, path: Path, key: tuple[int, int], value: tuple[int, int]) -> None:
        places = TomlPlaces(
            '# a "comment" [[\n'
            "mode = '''\n[[rule]]\nx = 1'''\n"
            'a.b = """\nx"""\n'
            "[[rule]] # first\n"
            '"image" = [ # which\n  "a]",\n  [1, 2],\n  {x = [1], "y z".a = 5}, ]\n'
            "[[ rule ]]\n"
            "  verdict='ask'\n"
            "[ rule.sub]\n"
            "k = 1979-05-27 07:32:00\n"
            "\tl = [1, 2]",
            [path],
        )
        assert (places.key(*path), places.value(*path)) == (key, value)

    def test_mistakes_in_inline_tables_are_found_in_them(self) -> None:
        text = "rule = [\n  {image = 'a.exe', verdict = 'ask'},\n  {image = 'b.exe', verdict = 'no'},\n]"
        [problem] = Policy.check(text)
        assert (problem.line, problem.column) == (3, 31)
