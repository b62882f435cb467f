"""The backend's conversion of single rules: names, verdicts, order, fields, and omissions."""

import tomllib

import pytest

import procmon

from .conftest import Convert, rule

ID = "99c8be4f-3087-4f9f-9c24-8c7e257b442e"


def only_table(convert: Convert, detection: str) -> dict[str, object]:
    """The facts and inner tables of the one rule that a detection becomes."""
    policy, left_out = convert(rule(detection))
    assert left_out == {}
    [made] = tomllib.loads(policy)["rule"]
    attributes = ("name", "verdict", "audit", "message", "reference", "tags")
    return {key: content for key, content in made.items() if key not in attributes}


def test_a_rule_keeps_its_title_identifier_level_author_and_reference(convert: Convert) -> None:
    text = rule("a: {Image: x}\ncondition: a") + "references: [https://example.org/1, https://example.org/2]\n"
    policy, _ = convert(text + "tags: [attack.t1059, attack.execution]\n")
    [made] = tomllib.loads(policy)["rule"]
    assert made == {
        "name": f"A rule ({ID})",
        "verdict": "block",
        "audit": True,
        "message": "Sigma rule of level high by Ada, Bob",
        "reference": "https://example.org/1",
        "tags": ["attack.t1059", "attack.execution"],
        "image": {"equals": "x"},
    }


@pytest.mark.parametrize(
    ("options", "verdicts"),
    [
        ({}, {"low": "audit", "high": "audit", "critical": "audit"}),
        ({"block": "critical"}, {"low": "audit", "high": "audit", "critical": "block"}),
        ({"block": "critical", "ask": "high"}, {"low": "audit", "high": "ask", "critical": "block"}),
        ({"ask": "HIGH"}, {"low": "audit", "high": "ask", "critical": "ask"}),
        ({"block": "low"}, {"low": "block", "high": "block", "critical": "block"}),
    ],
)
def test_levels_become_verdicts(convert: Convert, options: dict[str, str], verdicts: dict[str, str]) -> None:
    texts = [rule("a: {Image: x}\ncondition: a", level, level).replace(ID, "") for level in verdicts]
    policy, _ = convert(*(text.replace("id: \n", "") for text in texts), **options)
    made = tomllib.loads(policy)["rule"]
    found = {each["name"].split()[0]: "audit" if each.get("audit") else each["verdict"] for each in made}
    assert found == verdicts
    order = ["block", "ask", "audit"]
    assert list(found.values()) == sorted(found.values(), key=order.index)


def test_among_rules_of_one_verdict_the_highest_level_comes_first(convert: Convert) -> None:
    levels = ["low", "critical", "informational", "high", "medium", "high"]
    texts = [rule(f"a: {{Image: x{i}}}\ncondition: a", level, level) for i, level in enumerate(levels)]
    made = tomllib.loads(convert(*texts, block="critical")[0])["rule"]
    assert [each["message"].split()[4] for each in made] == [
        "critical", "high", "high", "medium", "low", "informational",
    ]  # fmt: skip
    assert [each["image"]["equals"] for each in made][1:3] == ["x3", "x5"]


def test_rules_of_one_level_keep_their_order(convert: Convert) -> None:
    titles = ["c", "a", "b"]
    texts = [rule("a: {Image: x}\ncondition: a", title).replace(f"id: {ID}\n", "") for title in titles]
    made = tomllib.loads(convert(*texts)[0])["rule"]
    assert [each["name"] for each in made] == [f"{title} (no identifier)" for title in titles]


@pytest.mark.parametrize(
    ("field", "made"),
    [
        (r"Image|endswith: '\a.exe'", {"image": {"ends_with": r"\a.exe"}}),
        (r"ParentImage|startswith: 'C:\x\'", {"parent": {"starts_with": "C:\\x\\"}}),
        ("OriginalFileName: A.exe", {"original_file_name": {"equals": "A.exe"}}),
        ("CommandLine|contains: [' -a ', it's]", {"command_line": {"contains": [" -a ", "it's"]}}),
        ("CommandLine|contains|all: [a, b]", {"command_line": {"contains_all": ["a", "b"]}}),
        ("CommandLine|contains: a*b?c", {"command_line": {"glob": "*a*b?c*"}}),
        (r"CommandLine|contains: 'a\*b'", {"command_line": {"contains": "a*b"}}),
        ("CommandLine|contains|cased: Ab", {"command_line": {"contains": "Ab", "case_sensitive": True}}),
        (r"Image: 'C:\\*\a.exe'", {"image": {"glob": r"C:\*\**\a.exe"}}),
        (r"Image|endswith: '\a*.exe'", {"image": {"glob": r"*\**\a**.exe"}}),
        (r"Image: '*\x\\*\a.exe'", {"image": {"glob": r"*\**\x\*\**\a.exe"}}),
        ("Image: '*a*b.exe'", {"image": {"glob": r"**\**a**b.exe"}}),
        (r"Image: 'C:\a?b.exe'", {"image": {"glob": [r"C:\a?b.exe", r"C:\a\b.exe"]}}),
        ("Image: '*'", {"image": {"known": True}}),
        ("CommandLine: null", {"command_line": {"known": False}}),
        ("CommandLine: ''", {"command_line": {"equals": ""}}),
        ("Product|exists: true", {"product": {"known": True}}),
        ("Product|exists: false", {"unless": [{"product": {"known": True}}]}),
        ("Product: '-'", {"any": [{"product": {"equals": "-"}}, {"product": {"known": False}}]}),
        ("CommandLine: 5", {"command_line": {"equals": "5"}}),
        ("TerminalSessionId: 0", {"session": {"equals": 0}}),
        ("TerminalSessionId|gt: 1", {"session": {"at_least": 2}}),
        ("IntegrityLevel: [High, S-1-16-12288]", {"integrity": {"equals": ["High", "S-1-16-12288"]}}),
        (f"Hashes|contains: IMPHASH={'AB' * 16}", {"imphash": {"equals": "ab" * 16}}),
        (f"Hashes|contains: SHA256={'ab' * 32}", {"sha256": {"equals": "ab" * 32}}),
        (
            f"Hashes|contains: [MD5={'00' * 16}, SHA1={'11' * 20}]",
            {"any": [{"md5": {"equals": "00" * 16}}, {"sha1": {"equals": "11" * 20}}]},
        ),
        (
            f"Hashes|contains: {'0a' * 16}",
            {"any": [{"md5": {"equals": "0a" * 16}}, {"imphash": {"equals": "0a" * 16}}]},
        ),
        ("LogonId: '0x3e7'", {"logon_id": {"equals": "0x3e7"}}),
        (r"CurrentDirectory|contains: '\x\'", {"current_directory": {"contains": "\\x\\"}}),
        (
            "CommandLine|contains|windash: ' -x'",
            {"command_line": {"contains": [" -x", " /x", " \u2013x", " \u2014x", " \u2015x"]}},
        ),
        (
            "CommandLine|base64offset|contains: cmd",
            {"command_line": {"contains": ["Y21k", "NtZ", "jbW"]}},
        ),
    ],
)
def test_a_field_becomes_a_fact(convert: Convert, field: str, made: dict[str, object]) -> None:
    assert only_table(convert, f"a:\n  {field}\ncondition: a") == made


@pytest.mark.parametrize(
    ("field", "made"),
    [
        ("LogonId: 0x3e7", {"logon_id": {"equals": "0x3e7"}}),  # YAML reads a number
        ("TerminalSessionId|gte: -3", {"session": {"known": True}}),
        ("TerminalSessionId|gt: -1", {"session": {"at_least": 0}}),
        (r"CurrentDirectory: 'C:\\*\x\\'", {"current_directory": {"ends_with": "\\", "glob": r"C:\*\**\x"}}),
        ("User|contains: S-1-5-21-", {"user": {"contains": "S-1-5-21-"}}),
    ],
)
def test_a_value_has_the_form_that_windows_gives_it(convert: Convert, field: str, made: dict[str, object]) -> None:
    assert only_table(convert, f"a:\n  {field}\ncondition: a") == made


def test_selections_are_combined_as_the_condition_says(convert: Convert) -> None:
    detection = """\
selection_image:
  - Image|endswith: a.exe
  - OriginalFileName: a.exe
selection_line:
  CommandLine|contains: x
filter_main: {User: root}
filter_other: {ParentImage: null}
condition: all of selection_* and not 1 of filter_*"""
    assert only_table(convert, detection) == {
        "command_line": {"contains": "x"},
        "any": [{"image": {"ends_with": "a.exe"}}, {"original_file_name": {"equals": "a.exe"}}],
        "unless": [{"user": {"equals": "root"}}, {"parent": {"known": False}}],
    }


def test_choices_that_must_all_hold_stand_below_all(convert: Convert) -> None:
    detection = """\
one: [{Image: a}, {Product: b}]
two: [{Image: c}, {Product: d}]
condition: one and two"""
    assert only_table(convert, detection) == {
        "all": [
            {"any": [{"image": {"equals": "a"}}, {"product": {"equals": "b"}}]},
            {"any": [{"image": {"equals": "c"}}, {"product": {"equals": "d"}}]},
        ]
    }


def test_of_several_conditions_any_is_enough(convert: Convert) -> None:
    made = only_table(convert, "a: {Image: x}\nb: {Product: y}\ncondition: [a, b]")
    assert made == {"any": [{"image": {"equals": "x"}}, {"product": {"equals": "y"}}]}


def test_a_keyword_is_looked_for_in_every_text_of_a_process(convert: Convert) -> None:
    made = only_table(convert, "words: [http://x]\ncondition: words")["any"]
    assert isinstance(made, list)
    facts = {fact: operators for each in made for fact, operators in each.items()}
    assert facts["command_line"] == facts["product"] == {"contains": "http://x"}
    assert "image" not in facts  # no path of Windows has a slash
    made = only_table(convert, "words: [x]\ncondition: words")["any"]
    assert isinstance(made, list) and {"image": {"contains": "x"}} in made


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ("CommandLine|re: a+", "a regular expression"),
        ("ProcessGuid: x", "no fact of a policy is the field ProcessGuid"),
        ("Image|cased: A.exe", "does not know the case of image"),
        ("Image|fieldref: ParentImage", "compared with another field"),
        ("CommandLine|cidr: 10.0.0.0/8", "no fact of a policy is an address"),
        ("CommandLine|expand: '%admins%'", "the placeholder %admins% has no value"),
        ("Product: true", "true or false"),
        ("CommandLine|gte: 5", "compared with a number"),
        (r"CommandLine: 'a\*b*c'", "wildcards beside a literal"),
        ("Image|contains: a/b", "a slash in image"),
        ("Hashes|contains: SHA1=12", "a part of the hashes"),
        ('Image|contains: "a\\tb"', "a control character in image"),
        ("md5: '12'", "no md5 is 12; it has 32 hexadecimal digits"),
        ("IntegrityLevel: Upper", "no integrity level Upper"),
        ("Image: 'C:*x'", "the last part of the path alone"),
        ("TerminalSessionId|contains: '1'", "the number of the session"),
        ("TerminalSessionId: '\u0663'", "the number of the session"),
        ("TerminalSessionId|lt: 0", "no session has a number below 0"),
        ("TerminalSessionId|gt: 1.5", "write a whole number"),
        ("User|contains: 'a, b'", "the sign , in user, where Windows allows none"),
        ("User|contains: '-'", "compares user with the SID, too"),
        ("User|startswith: 's'", "compares user with the SID, too"),
        ("IntegrityLevel|contains: '1'", "compares integrity with the SID, too"),
        (f"Hashes|contains|cased: MD5={'ab' * 16}", "leave out cased"),
        ("commandline: x", "no fact of a policy is the field commandline: write CommandLine"),
        ("EventID: 1", "convert without the pipeline that adds it"),
        ("NewProcessName: x", "no fact of a policy is the field NewProcessName: write Image"),
        ('CommandLine: "\\ud800"', "U+D800, half of a character"),
        ("CurrentDirectory: 'C:*?'", "? at the end of a directory"),
        ("CommandLine|base64offset|contains: é", "base64offset of a text that is not ASCII"),
        ("CommandLine|base64offset|contains: a", "too short for base64offset"),
        (r"CommandLine|base64offset|contains: 'ab\*c'", "encodes the backslash"),
        (r"CommandLine|base64|contains: 'ab\?c'", "encodes the backslash"),
        ("CommandLine|utf16|base64offset|contains: cmd", "write wide"),
        ("CommandLine|utf16le: cmd", "Unknown modifier 'utf16le': write wide"),
        ("CommandLine|cased|windash|contains: ' -X'", "write cased as the last one"),
        ("CommandLine|windash|contains: ' \u2013x'", "not the dash of this text"),
    ],
)
def test_what_a_policy_cannot_say_is_left_out_with_the_reason(convert: Convert, field: str, reason: str) -> None:
    policy, left_out = convert(rule(f"a:\n  {field}\ncondition: a", "Odd"), rule("a: {Image: x}\ncondition: a"))
    assert reason in left_out["Odd"]
    assert [each["name"] for each in tomllib.loads(policy)["rule"]] == [f"A rule ({ID})"]
    assert f"# left out: Odd ({ID}): {left_out['Odd']}" in policy.splitlines()


@pytest.mark.parametrize(
    ("detection", "reason"),
    [
        ("a: {Image: x}\ncondition: a and not 1 of filter_*", "names no selection that it has"),
        ("a: {Image: x}\ncondition: all of selection_*", "names no selection that it has"),
        ("a: {Image: x}\ncondition: [a, 1 of selection_*]", "names no selection that it has"),
        ("_a: {Image: x}\ncondition: 1 of them", "names no selection that it has"),
        ("a:\ncondition: a", "a value without a field"),
        ("a: [null]\ncondition: a", "a value without a field"),
        ("a: {'|cased': Xy}\ncondition: a", "letter case counts in a value without a field"),
        ("a: {'|hour': 3}\ncondition: a", "a value without a field"),
        ("a: {'|fieldref': x}\ncondition: a", "a value without a field"),
        ("a: {'|re': x}\ncondition: a", "a regular expression"),
        ("a: ['4444']\ncondition: a", "looks for 4444 in SIDs, too"),
        ("a: ['SHA1=12']\ncondition: a", "a part of the hashes"),
        ("a: {Image: x}\ncondition: a | count() > 5", "pipe syntax"),
        ("a: {Image: x}\ncondition: a and b", "'b' not defined"),
        (f"a: {{Image: x}}\ncondition: {'not ' * 3000}a", "its conditions are nested too deep"),
        ("a: {Image: x}\ncondition: a and (a", "Unbalanced parentheses"),
    ],
)
def test_a_condition_that_a_policy_cannot_say_is_left_out(convert: Convert, detection: str, reason: str) -> None:
    policy, left_out = convert(rule(detection, "Odd"), rule("a: {Image: x}\ncondition: a"))
    assert reason in left_out["Odd"]
    assert [each["name"] for each in tomllib.loads(policy)["rule"]] == [f"A rule ({ID})"]


@pytest.mark.parametrize(("title", "reason"), [("", "must have a title"), ("title: 7", "title must be a string")])
def test_a_rule_without_a_title_is_left_out(convert: Convert, title: str, reason: str) -> None:
    policy, left_out = convert(rule("a: {Image: x}\ncondition: a").replace("title: A rule", title))
    assert tomllib.loads(policy) == {}
    assert reason in " ".join(left_out.values())


def test_a_blank_title_becomes_a_name(convert: Convert) -> None:
    policy, _ = convert(rule("a: {Image: x}\ncondition: a", "' '"))
    assert tomllib.loads(policy)["rule"][0]["name"] == f"untitled ({ID})"


@pytest.mark.parametrize("references", ["['']", "[' ', 'https://example.org']", "[7]", "[null]"])
def test_references_of_a_rule_make_no_mistake_in_the_policy(convert: Convert, references: str) -> None:
    policy, left_out = convert(rule("a: {CommandLine: x}\ncondition: a") + f"references: {references}\n")
    assert left_out == {}
    assert not [problem for problem in procmon.Policy.check(policy) if problem.fatal]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{category: file_event, product: windows}", "not process creations"),
        ("{category: process_creation, product: linux}", "for linux, not Windows"),
        ("{service: security, product: windows}", "not process creations"),
        ("{category: process_creation, product: windows, service: sysmon}", "of the service sysmon"),
    ],
)
def test_rules_about_other_events_are_left_out(convert: Convert, source: str, reason: str) -> None:
    text = rule("a: {Image: x}\ncondition: a").replace("{category: process_creation, product: windows}", source)
    assert reason in convert(text)[1]["A rule"]


def test_the_log_source_may_have_capital_letters(convert: Convert) -> None:
    text = rule("a: {Image: x}\ncondition: a").replace("windows", "Windows").replace("process_c", "Process_C")
    assert convert(text)[1] == {}


FILTER = """\
title: Administrators
logsource: {category: process_creation, product: windows}
filter: {rules: [RULES], f: {User|startswith: CORP\\adm_}, condition: not f}
"""


def test_a_filter_is_part_of_its_rules(convert: Convert) -> None:
    policy, left_out = convert(rule("a: {Image: x}\ncondition: a"), FILTER.replace("RULES", ID))
    assert left_out == {}
    [made] = tomllib.loads(policy)["rule"]
    assert made["unless"] == [{"user": {"starts_with": "CORP\\adm_"}}]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (FILTER.replace("RULES", f"{ID}, A rule"), "has no effect on A rule: no rule of its log source"),
        (
            FILTER.replace("[RULES]", "any").replace("windows", "linux"),
            "no effect on any rule: none has its log source",
        ),
        (FILTER.replace("RULES", ID).replace("startswith", "startwith"), "has no effect: Unknown modifier 'startwith'"),
    ],
)
def test_a_filter_without_effect_is_named_since_its_rules_block_more(convert: Convert, text: str, reason: str) -> None:
    policy, left_out = convert(rule("a: {Image: x}\ncondition: a"), text)
    assert reason in left_out["Administrators"]
    assert len(tomllib.loads(policy)["rule"]) == 1


def test_correlations_are_left_out(convert: Convert) -> None:
    correlation = """\
title: Many of them
correlation: {type: event_count, rules: [one], group-by: [User], timespan: 5m, condition: {gte: 10}}
"""
    named = rule("a: {Image: x}\ncondition: a") + "name: one\n---\n"
    policy, left_out = convert(named + correlation)
    assert tomllib.loads(policy) == {}
    assert "with generate: true in it the rules that it names are converted" in left_out["Many of them"]
    policy, left_out = convert(named + correlation.replace("timespan", "generate: true, timespan"))
    assert len(tomllib.loads(policy)["rule"]) == 1
    assert "correlates several events" in left_out["Many of them"]


def test_what_is_nested_deeper_than_a_policy_takes_is_left_out(convert: Convert) -> None:
    names = [f"s{i}" for i in range(20)]
    condition = names[-1]
    for name in reversed(names[:-1]):
        condition = f"{name} and not ({condition})"
    detection = "\n".join(f"{name}: {{Image: x{name}}}" for name in names) + f"\ncondition: {condition}"
    assert "nested 19 deep; a policy takes 16" in convert(rule(detection))[1]["A rule"]


def test_rules_of_one_title_and_identifier_have_different_names(convert: Convert) -> None:
    policy, left_out = convert(rule("a: {Image: x}\ncondition: a"), rule("a: {Image: y}\ncondition: a"))
    assert [each["name"] for each in tomllib.loads(policy)["rule"]] == [f"A rule ({ID})", f"A rule ({ID}), part 2"]
    assert left_out == {}


def test_the_same_rule_again_is_left_out(convert: Convert) -> None:
    policy, left_out = convert(*[rule("a: {Image: x}\ncondition: a")] * 2)
    assert len(tomllib.loads(policy)["rule"]) == 1
    assert left_out == {"A rule": "a rule with its title, identifier and condition is there already"}


@pytest.mark.parametrize(
    "text",
    ["it's", 'say "x"', "a\\b", "tab\there", "nul\x00", "zero\u200bwidth", "\ufeff", "é 漢", "\u202ex", "\U000e0041"],
)
def test_any_text_comes_back_from_the_policy(convert: Convert, text: str) -> None:
    from sigma.backends.procmon.toml import value

    assert tomllib.loads(f"key = {value(text)}")["key"] == text
    assert value(text).isascii() or value(text).isprintable()


def test_a_remark_has_no_sign_that_toml_refuses() -> None:
    from sigma.backends.procmon.toml import comment

    assert comment("a\x00b\x1b[2J\x7f\nc\u2028d") == "# a b [2J c d"
    assert tomllib.loads(comment("a\x01b")) == {}
