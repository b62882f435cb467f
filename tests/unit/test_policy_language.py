"""The language of rules: operators, groups, unknown facts, and a rule's own description."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

import procmon
from procmon import ALLOW, BLOCK, DecidedBy, Policy, PolicyError, ProcessFlags, ProcessHelper, RuleNote

SYSTEM = "c:\\windows\\system32\\"


def policy(body: str, **details: object) -> Policy:
    text = body if "[[rule]]" in body else f"[[rule]]\n{body}\nverdict = 'block'\n"
    return Policy.parse(text, details=lambda _: SimpleNamespace(**details))


def matches(body: str, image: str = "c:/tools/a.exe", line: str | None = None, **details: object) -> bool:
    process = ProcessHelper(pid=8, parent_pid=4, image_name=image.lower().replace("/", "\\"), command_line=line)
    made = policy(body, **details)
    decision, explanation = made.decide(process), made.explain(process)
    assert explanation.decision.by is decision.by
    assert bool(explanation.steps) and explanation.steps[-1].matched is (decision.by is DecidedBy.RULE)
    return decision.by is DecidedBy.RULE


class TestOperators:
    @pytest.mark.parametrize(
        ("condition", "line", "expected"),
        [
            ("'* -enc *'", "cmd -ENC x", True),
            ("'cmd*-e*'", "x -e", False),
            ("'*-e*cmd'", "cmd -e", False),
            ("{glob = ['*a', '*b']}", "xb", True),
            ("{glob_all = ['a*', '*b']}", "a b", True),
            ("{glob_all = ['a*', '*b']}", "a c", False),
            ("{glob_all = ['a b', '*']}", "a B", True),
            ("{glob_all = ['a b', '*']}", "a c", False),
            ("{equals = 'A b'}", "a B", True),
            ("{equals = 'a'}", "a ", False),
            ("{equals = ''}", "", True),
            ("{equals = ''}", "a", False),
            ("{contains = ['x', ' -e ']}", "cmd -e y", True),
            ("{contains = 'x*y'}", "axxy", False),
            ("{contains = 'x*y'}", "aX*Yb", True),
            ("{contains_all = ['-a', '-b']}", "-b -a", True),
            ("{contains_all = ['-a', '-b']}", "-b", False),
            ("{starts_with = ['cmd ', 'sh ']}", "SH x", True),
            ("{starts_with = 'cmd'}", "xcmd", False),
            ("{ends_with = ' /c'}", "cmd /C", True),
            ("{ends_with = '\\c.txt'}", "type d:\\c.txt", True),
            ("{starts_with = 'a', ends_with = 'b'}", "ab", True),
            ("{starts_with = 'a', ends_with = 'b'}", "ac", False),
            ("{contains = '/x'}", "a \\x", False),
            ("{contains = 'X', case_sensitive = true}", "ax", False),
            ("{contains = 'X', case_sensitive = true}", "aX", True),
            ("{glob = '*X?', case_sensitive = true}", "aXb", True),
            ("{glob = '*X?', case_sensitive = true}", "axb", False),
            ("{not = {contains = 'x'}}", "abc", True),
            ("{not = {contains = 'x'}}", "axc", False),
            ("{contains = 'a', not = {contains = 'x', case_sensitive = true}}", "AX", True),
            ("{contains = 'a', not = {contains = 'x', case_sensitive = true}}", "ax", False),
            ("{contains = 'a', not = {contains = 'X', case_sensitive = true}}", "ax", True),
            ("{not = {not = {contains = 'x'}}}", "ax", True),
            ("{known = true}", "", True),
            ("{known = false}", "", False),
            ("{contains = '\u00c4'}", "x\u00e4", True),
            ("{contains = 'k'}", "\u212a", False),
        ],
    )
    def test_a_text_is_compared(self, condition: str, line: str, expected: bool) -> None:
        assert matches(f"command_line = {condition}", line=line) is expected

    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            ("{starts_with = 'C:/tools'}", True), ("{contains = '/TOOLS/'}", True), ("{ends_with = '\\A.exe'}", True),
            ("{equals = 'a.exe'}", False), ("{glob = 'a.exe'}", True), ("{ends_with = 'a.exe'}", True),
            ("{equals = 'c:/tools/a.exe'}", True), ("{contains = 'tools/*'}", False), ("{starts_with = 'a'}", False),
            ("{glob_all = ['a*', '**/tools/*']}", True), ("{glob_all = ['b*', '**/tools/*']}", False),
        ],
    )  # fmt: skip
    def test_only_a_glob_without_a_slash_is_compared_with_the_last_part(self, condition: str, expected: bool) -> None:
        assert matches(f"image = {condition}") is expected

    @pytest.mark.parametrize(
        ("condition", "details", "expected"),
        [
            ("session = {at_least = 1}", {"session": 1}, True),
            ("session = {at_least = 1}", {"session": 0}, False),
            ("session = {at_most = 1}", {"session_id": 1}, True),
            ("session = [0, 2]", {"session": 2}, True),
            ("session = {equals = 2}", {"session": 2}, True),
            ("size = {at_least = 10, at_most = 20}", {"size": 20}, True),
            ("size = {at_least = 10, at_most = 20}", {"size": 9}, False),
            ("integrity = 'high'", {"integrity": procmon.Integrity.HIGH}, True),
            ("integrity = 'High'", {"integrity": "HIGH"}, True),
            ("integrity = 'S-1-16-12288'", {"integrity": procmon.Integrity.HIGH}, True),
            ("integrity = 'high'", {"integrity": "S-1-16-12288"}, True),
            ("integrity = {at_least = 'medium_plus'}", {"integrity": procmon.Integrity.MEDIUM}, False),
            ("integrity = {at_least = 'medium_plus'}", {"integrity": 0x2500}, True),
            ("integrity = {at_least = 'medium_plus'}", {"integrity": "of a later Windows"}, False),
            ("integrity = {at_most = 'low'}", {"integrity": "Untrusted"}, True),
            ("file_version = {at_least = '10.0.19041'}", {"file_version": "10.0.19041.1 (WinBuild.1)"}, True),
            ("file_version = {at_least = '10.0'}", {"file_version": "9.9.9.9"}, False),
            ("file_version = {at_most = '1.2'}", {"file_version": "1.2.0.0"}, True),
            ("file_version = {at_most = '1.2'}", {"file_version": "1.2.0.1"}, False),
            ("file_version = {at_least = '1'}", {"file_version": "beta"}, False),
            ("file_version = {at_most = '1'}", {"file_version": "0.0.0.0"}, True),
        ],
    )
    def test_an_order_is_compared(self, condition: str, details: dict[str, object], expected: bool) -> None:
        assert matches(condition, "c:/tools/a.exe", None, **details) is expected

    @pytest.mark.parametrize(
        ("condition", "details", "expected"),
        [
            ("group = 'S-1-5-32-544'", {"groups": ("S-1-1-0", "S-1-5-32-544")}, True),
            ("group = {not = {equals = 'S-1-5-32-544'}}", {"groups": ("S-1-1-0", "S-1-5-32-544")}, False),
            ("group = {not = {equals = 'S-1-5-32-544'}}", {"groups": ("S-1-1-0",)}, True),
            (
                "user = {starts_with = 'S-1-5-21-', ends_with = '-500'}",
                {"user": "PC\\a", "user_sid": "S-1-5-21-500"},
                1,
            ),
            ("user = {starts_with = 'PC/', ends_with = '-500'}", {"user": "PC\\a", "user_sid": "S-1-5-21-500"}, False),
            ("logon_id = '0x3E7'", {"logon_id": 0x3E7}, True),
            ("origin = 'internet'", {"origin": "internet"}, True),
            ("original_file_name = 'CertUtil.exe'", {"original_file_name": "certutil.EXE"}, True),
            ("publisher = 'O=Example*'", {"publisher": "O=Example Ltd, L=X, S=Y, C=DE"}, True),
            ("current_directory = 'c:/tools'", {"current_directory": "C:\\Tools\\"}, True),
            ("current_directory = 'tools'", {"current_directory": "C:\\Tools\\"}, True),
            ("current_directory = 'c:/'", {"current_directory": "C:\\"}, True),
            ("current_directory = {ends_with = '/tools'}", {"current_directory": "C:\\Tools\\"}, False),
            ("current_directory = {ends_with = '/tools/'}", {"current_directory": "C:\\Tools\\"}, True),
            ("parent_user = 'SYSTEM'", {"parent_user": "NT AUTHORITY\\SYSTEM"}, True),
            (f"md5 = '{'AB' * 16}'", {"md5": "ab" * 16}, True),
            (f"imphash = '{'ab' * 16}'", {"imphash": "AB" * 16}, True),
            (f"sha1 = ['{'cd' * 20}', '{'ab' * 20}']", {"sha1": "ab" * 20}, True),
            (f"authenticode_sha256 = '{'ab' * 32}'", {"authenticode_sha256": "ab" * 32}, True),
        ],
    )
    def test_facts_of_a_process_and_of_its_file(
        self, condition: str, details: dict[str, object], expected: bool
    ) -> None:
        assert matches(condition, "c:/tools/a.exe", None, **details) is bool(expected)

    def test_the_flags_of_the_record(self) -> None:
        plain = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe")
        flagged = ProcessHelper(pid=8, parent_pid=4, image_name="a.exe", flags=ProcessFlags.CREATE_MISSED)
        for condition, one, other in (
            ("'create_missed'", False, True),
            ("{not = {equals = 'CREATE_MISSED'}}", True, False),
            ("{equals = ''}", True, False),
        ):
            made = policy(f"flags = {condition}")
            assert [made.decide(p).verdict is BLOCK for p in (plain, flagged)] == [one, other]

    def test_several_ancestors_are_not_taken_for_one(self) -> None:
        gate = procmon.SimulatedGate()
        top = gate.start("c:/office/word.exe", parent_pid=4)
        middle = gate.start("d:/tools/cmd.exe", parent_pid=top.pid)
        leaf = gate.start("e:/a.exe", parent_pid=middle.pid)
        for condition, expected in (
            ("{starts_with = 'c:/', ends_with = 'word.exe'}", BLOCK),
            ("{starts_with = 'd:/', ends_with = 'word.exe'}", ALLOW),
            ("{not = {ends_with = 'word.exe'}}", ALLOW),
            ("{not = {ends_with = 'excel.exe'}}", BLOCK),
        ):
            made = policy(f"ancestor = {condition}")
            assert [made.decide(p).verdict for p in (top, middle, leaf)][2] is expected


class TestGroups:
    TEXT = """
    [[rule]]
    name = "certutil downloads"
    verdict = "block"
    command_line = {contains = "http"}
    [[rule.any]]
    image = "certutil.exe"
    [[rule.any]]
    original_file_name = "CertUtil.exe"
    [[rule.unless]]
    parent = "setup.exe"
    [[rule.unless.any]]
    user = "SYSTEM"
    [[rule.unless.any]]
    integrity = {at_least = "system"}
    """

    def test_a_renamed_program_is_recognised(self) -> None:
        for image, original, line, expected in (
            ("c:/a/certutil.exe", None, "x http://x", True),
            ("c:/a/b.exe", "CertUtil.exe", "x http://x", True),
            ("c:/a/b.exe", "b.exe", "x http://x", False),
            ("c:/a/b.exe", "CertUtil.exe", "x", False),
        ):
            assert matches(self.TEXT, image=image, line=line, original_file_name=original) is expected

    def test_a_group_inside_a_group(self) -> None:
        gate = procmon.SimulatedGate()
        setup = gate.start("c:/setup.exe", parent_pid=4)
        for user, integrity, expected in (
            ("PC\\ann", "high", BLOCK), ("NT AUTHORITY\\SYSTEM", "high", ALLOW), (None, "system", ALLOW),
        ):  # fmt: skip
            made = policy(self.TEXT, original_file_name="certutil.exe", user=user, integrity=integrity)
            made.decide(setup)
            child = gate.start("c:/a.exe", parent_pid=setup.pid, command_line="a https://b")
            assert made.decide(child).verdict is expected

    def test_both_ways_to_write_a_group_are_one(self) -> None:
        inline = policy("any = [{image = 'a.exe', command_line = 'x'}, {session = 1}]\nunless = [{signer = '*'}]")
        tables = policy(
            "[[rule]]\nverdict = 'block'\n[[rule.any]]\nimage = 'a.exe'\ncommand_line = 'x'\n[[rule.any]]\n"
            "session = 1\n[[rule.unless]]\nsigner = '*'"
        )
        assert inline._rules.rules == tables._rules.rules

    def test_all_holds_where_every_table_holds(self) -> None:
        text = "all = [{any = [{image = 'a.exe'}, {image = 'b.exe'}]}, {any = [{command_line = 'x'}]}]"
        assert matches(text, image="c:/b.exe", line="x")
        assert not matches(text, image="c:/b.exe", line="y")

    @pytest.mark.parametrize(("depth", "fine"), [(16, True), (17, False)])
    @pytest.mark.parametrize("inline", [True, False])
    def test_groups_nest_16_deep(self, depth: int, fine: bool, inline: bool) -> None:
        if inline:
            text = "[[rule]]\nverdict = 'block'\n" + "any = [{" * depth + "image = 'a.exe'" + "}]" * depth
        else:
            levels = "".join(f"[[rule{'.any' * i}]]\n" for i in range(1, depth + 1))
            text = f"[[rule]]\nverdict = 'block'\n{levels}image = 'a.exe'"
        if fine:
            assert matches(text)
        else:
            with pytest.raises(PolicyError, match="groups nest more than 16 deep; write several rules"):
                Policy.parse(text)

    def test_negations_count_as_depth(self) -> None:
        text = "image = " + "{not = " * 17 + "{glob = 'a.exe'}" + "}" * 17
        with pytest.raises(PolicyError, match="groups nest more than 16 deep"):
            policy(text)


class TestWhatIsNotKnown:
    @pytest.mark.parametrize(
        ("condition", "expected"),
        [
            ("signer = '*'", False),
            ("signer = {contains = 'a'}", False),
            ("signer = {equals = ''}", False),
            ("signer = {known = true}", False),
            ("signer = {known = false}", True),
            ("signer = {not = {contains = 'a'}}", True),
            ("signer = {contains = 'a', not = {contains = 'b'}}", False),
            ("unless = [{signer = 'a'}]", True),
            ("any = [{signer = 'a'}, {signer = {known = false}}]", True),
            ("size = {at_least = 0}", False),
            ("group = {not = {equals = 'S-1-1-0'}}", True),
            ("parent = {known = false}", True),
            ("creator = {known = false}", True),
        ],
    )
    def test_an_unknown_fact_fails_every_operator_and_negations_hold(self, condition: str, expected: bool) -> None:
        assert matches(condition) is expected

    def test_an_explanation_says_so(self) -> None:
        process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe")
        assert "signer is not known, so its not holds" in str(policy("signer = {not = {glob = 'a'}}").explain(process))
        shown = str(policy("unless = [{signer = 'a'}]").explain(process)).splitlines()
        assert shown[1:] == [
            "  1  yes  unless: none holds, so the rule may match",
            "            no   signer is not known",
        ]


class TestLookUps:
    def test_each_fact_is_looked_up_once_and_only_where_a_rule_needs_it(self) -> None:
        asked: list[str] = []

        class Details:
            def __getattr__(self, name: str) -> object:
                asked.append(name)
                return {"original_file_name": "a.exe", "company": "b"}.get(name)

        made = Policy.parse(
            "[[rule]]\nimage = 'x.exe'\nmd5 = '" + "ab" * 16 + "'\nverdict = 'block'\n"
            "[[rule]]\ncommand_line = {contains = 'zz'}\ncompany = 'c'\nverdict = 'block'\n"
            "[[rule]]\nany = [{original_file_name = 'b.exe'}, {original_file_name = 'c.exe'}]\nverdict = 'block'\n"
            "[[rule]]\noriginal_file_name = 'a.exe'\nverdict = 'block'\n"
            "[[rule]]\nsigner = 'x'\nverdict = 'block'\n",
            details=lambda _: Details(),
        )
        decision = made.decide(ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe", command_line="a"))
        assert (decision.who, asked) == ("4", ["original_file_name"])
        assert decision.facts == {"original_file_name": "a.exe"}

    def test_the_command_line_of_a_parent_that_has_gone_is_known(self) -> None:
        gate = procmon.SimulatedGate()
        made = Policy.parse("[[rule]]\nparent_command_line = {contains = ' /bad'}\nverdict = 'block'")
        parent = gate.start("c:/p.exe", parent_pid=4, command_line="p /bad")
        assert made.decide(parent).verdict is ALLOW
        gate.exit(parent)
        assert made.decide(gate.start("c:/a.exe", parent_pid=parent.pid)).verdict is BLOCK

    def test_the_creator_is_not_the_parent(self) -> None:
        made = Policy.parse("[[rule]]\ncreator = 'evil.exe'\nverdict = 'block'")
        evil = ProcessHelper(pid=12, parent_pid=4, image_name="c:\\evil.exe", start_key=1)
        good = ProcessHelper(pid=16, parent_pid=4, image_name="c:\\good.exe", start_key=2)
        for process in (evil, good):
            assert made.decide(process).verdict is ALLOW
        spoofed = ProcessHelper(pid=20, parent_pid=16, creator_pid=12, image_name="c:\\a.exe", start_key=3)
        honest = ProcessHelper(pid=24, parent_pid=16, creator_pid=16, image_name="c:\\a.exe", start_key=4)
        assert [made.decide(p).verdict for p in (spoofed, honest)] == [BLOCK, ALLOW]

    def test_a_parent_may_be_given_with_the_details(self) -> None:
        assert matches("parent = 'word.exe'", parent="C:\\Office\\WORD.EXE")


class TestWhatARuleSaysOfItself:
    def test_it_goes_with_the_decision(self) -> None:
        text = (
            "[[rule]]\nimage = 'a.exe'\nverdict = 'block'\nmessage = 'Use b.'\nreference = 'https://example.org'\n"
            "tags = ['t1059', 'test']\nlog = false"
        )
        process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe")
        decision = Policy.parse(text).decide(process)
        assert decision.note == RuleNote(
            message="Use b.", reference="https://example.org", tags=("t1059", "test"), log=False
        )
        data = decision.as_dict()
        assert (data["message"], data["reference"], data["tags"]) == (
            "Use b.", "https://example.org", ["t1059", "test"],
        )  # fmt: skip
        read = procmon.Decision.from_dict(data).note
        assert read is not None and (read.message, read.tags) == ("Use b.", ("t1059", "test"))
        assert "message: Use b." in str(Policy.parse(text).explain(process))

    def test_a_rule_that_says_nothing_has_no_note(self) -> None:
        decision = policy("image = 'a.exe'").decide(ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe"))
        assert decision.note is None
        assert "message" not in decision.as_dict()

    @pytest.mark.parametrize(
        ("until", "expected"), [("2001-01-01T00:00:00Z", ALLOW), ("2999-01-01T02:00:00+02:00", BLOCK)]
    )
    def test_a_rule_ends_at_its_time(self, until: str, expected: procmon.Verdict) -> None:
        process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe")
        made = policy(f"image = 'a.exe'\nuntil = {until}")
        assert made.decide(process).verdict is expected
        if expected is ALLOW:
            assert "until 2001-01-01T00:00:00+00:00 has passed" in str(made.explain(process))

    def test_in_the_past_a_parent_is_known_that_no_rule_asked_about(self) -> None:
        judge = policy("image = 'child.exe'\nparent = 'parent.exe'").for_the_past()
        parent = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\parent.exe", start_key=1)
        child = ProcessHelper(pid=12, parent_pid=8, image_name="c:\\child.exe", start_key=2)
        assert [judge(process)[0].verdict for process in (parent, child)] == [ALLOW, BLOCK]

    def test_in_the_past_the_time_of_the_process_counts(self) -> None:
        judge = policy("image = 'a.exe'\nuntil = 2001-01-01T00:00:00Z").for_the_past()
        for year, expected in ((2000, BLOCK), (2001, ALLOW), (2002, ALLOW)):
            created = datetime(year, 1, 1, tzinfo=UTC)
            process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe", created=created)
            assert judge(process)[0].verdict is expected

    def test_a_rule_on_trial_reports_a_critical_process_too(self) -> None:
        conhost = ProcessHelper(pid=8, parent_pid=4, image_name=SYSTEM + "conhost.exe", command_line="conhost 0x4")
        line = "command_line = {contains = '0x4'}"
        tried = policy(line + "\naudit = true").decide(conhost)
        assert (tried.by, tried.audited) == (DecidedBy.RULE, True)
        assert policy(line).decide(conhost).by is DecidedBy.EXEMPT
        audited = Policy.parse(f"mode = 'audit'\n[[rule]]\n{line}\nverdict = 'block'").decide(conhost)
        assert audited.by is DecidedBy.EXEMPT  # as it would be when it is enforced


class TestExplanations:
    def test_the_tree_shows_what_held_and_names_what_decided(self) -> None:
        process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe", command_line="a http://b")
        explanation = policy(TestGroups.TEXT, original_file_name="b.exe").explain(process)
        assert str(explanation).splitlines() == [
            "allow c:\\a.exe (8) by default",
            "  certutil downloads  no   command line a http://b contains http",
            "                           unless: none holds, so the rule may match",
            "                             no   parent is not known: no process 4 is known that may have started it",
            "                           any: none holds",
            "                             no   image c:\\a.exe is not certutil.exe",
            "                             no   original file name b.exe is not CertUtil.exe",
            "  no rule matches",
        ]
        [step] = explanation.steps
        assert (step.fact, step.decided) == ("any", "image c:\\a.exe is not certutil.exe")

    def test_an_unless_that_holds_is_named(self) -> None:
        process = ProcessHelper(pid=8, parent_pid=4, image_name="c:\\a.exe", command_line="x")
        [step] = policy("command_line = 'x'\nunless = [{image = 'b.exe'}, {image = 'a.exe'}]").explain(process).steps
        assert step.reasons == (
            "unless: one holds, so the rule does not match",
            "  no   image c:\\a.exe is not b.exe",
            "  yes  image c:\\a.exe matches a.exe",
        )
        assert step.decided == "unless: image c:\\a.exe matches a.exe"
