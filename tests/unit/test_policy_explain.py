"""The reasons for a policy's decision, rule by rule."""

from pathlib import Path

from policies import rule
from procmon import Policy, ProcessHelper


class TestExplanations:
    def explain(self, text: str, image: str = "c:\\tools\\a.exe") -> str:
        process = ProcessHelper(pid=8, parent_pid=4, image_name=image, command_line="a /x")
        return str(Policy.parse(text).explain(process))

    def test_rule_by_rule(self) -> None:
        text = (
            rule("name = 'shells'\nimage = ['cmd.exe', 'sh.exe']\nverdict = 'block'")
            + rule("image = '**/tools/*'\nparent = 'x.exe'\nverdict = 'block'")
            + rule("name = 'tools'\nimage = ['z', '**/tools/*']\ncommand_line = '*/x'\nverdict = 'ask'")
        )
        assert self.explain(text).splitlines() == [
            "ask c:\\tools\\a.exe (8) by rule tools, line 9 of <text>",
            "  shells  no   image c:\\tools\\a.exe is not cmd.exe or sh.exe",
            "  2       no   image c:\\tools\\a.exe matches **/tools/*",
            "               parent is not known: no process 4 is known that may have started it",
            "  tools   yes  image c:\\tools\\a.exe matches **/tools/*",
            "               command line a /x matches */x",
        ]

    def test_many_rules_that_name_others_are_one_line(self) -> None:
        text = "".join(rule(f"image = 'c:/x/{i}.exe'\nverdict = 'block'") for i in range(1000))
        assert self.explain("default = 'block'\n" + text).splitlines() == [
            "block c:\\tools\\a.exe (8) by default",
            "  rules 1 to 1,000: no, each asks for another image",
            "  no rule matches; the default is block",
        ]

    def test_audit_and_critical_and_nothing(self) -> None:
        assert "audit: it is logged and let pass" in self.explain(
            "mode = 'audit'\n" + rule("image = 'a.exe'\nverdict = 'ask'")
        )
        assert "a critical Windows process" in self.explain("default = 'block'", "c:\\windows\\system32\\lsass.exe")
        assert self.explain("").splitlines()[1] == "  no rule matches"

    def test_many_rules_of_several_files_have_their_names(self, tmp_path: Path) -> None:
        for name in ("a.toml", "b.toml"):
            rules = "".join(rule(f"image = 'c:/{name}/{i}.exe'\nverdict = 'block'") for i in range(3))
            (tmp_path / name).write_text(rules, encoding="utf-8")
        process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
        assert str(Policy.load(tmp_path).explain(process)).splitlines()[1] == (
            "  rules a.toml:1 to b.toml:3: no, each asks for another image"
        )

    def test_reasons_stand_below_long_names(self) -> None:
        name = "Suspicious Download (99c8be4f-3087-4f9f-9c24-8c7e257b442e)"
        assert self.explain(rule(f"name = '{name}'\nimage = 'z.exe'\nverdict = 'block'")).splitlines()[1:3] == [
            f"  no   {name}",
            "       image c:\\tools\\a.exe is not z.exe",
        ]

    def test_a_long_command_line_is_cut(self) -> None:
        policy = Policy.parse(
            rule("command_line = {contains = 'y'}\nverdict = 'block'")
            + rule("command_line = {contains = 'z'}\nverdict = 'block'")
        )
        process = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe", command_line="x" * 32_000 + "z")
        shown = str(policy.explain(process))
        assert shown.count("(32,001 characters)") == 2
        assert len(shown) < 1000
