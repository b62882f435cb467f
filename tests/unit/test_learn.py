"""A policy learned from a log: by signer, by folder where users cannot write, by hash; and the starter policy."""

import tomllib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procmon import ALLOW, BLOCK, Policy, ProcessHelper
from procmon.policy.learn import WRITABLE, Seen, learn
from procmon.policy.starter import STARTER

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HASH = "ab" * 32


def rules(*programs: Seen) -> list[dict[str, object]]:
    made = tomllib.loads(learn(programs).text).get("rule", [])
    return [{key: value for key, value in rule.items() if key not in ("name", "verdict")} for rule in made]


def decide(text: str, image: str, **facts: object) -> bool:
    """Does the policy let the program run?"""
    policy = Policy.parse(
        text.replace('mode = "audit"', 'mode = "enforce"'), details=lambda _: SimpleNamespace(**facts)
    )
    return policy.decide(ProcessHelper(pid=8, parent_pid=4, image_name=image)).verdict is ALLOW


def test_a_signed_program_is_known_by_signer_and_product() -> None:
    seen = Seen(r"c:\users\alice\a.exe", signer="Example Ltd", product="Suite", sha256=HASH)
    assert rules(seen) == [{"signer": {"equals": "Example Ltd"}, "product": {"equals": "Suite"}}]
    assert rules(Seen(r"c:\a.exe", signer="Example Ltd")) == [{"signer": {"equals": "Example Ltd"}}]


def test_a_folder_of_windows_or_of_programs_is_known_by_its_files() -> None:
    for folder in ("c:/windows/system32/", "c:/program files (x86)/x/"):
        seen = Seen(f"{folder}a.exe".replace("/", "\\"))
        assert rules(seen) == [{"image": f"{folder}*", "unless": [{"image": "*:*"}]}]
    text = learn([Seen(r"c:\windows\a.exe")]).text
    assert decide(text, r"c:\windows\b.exe")
    assert not decide(text, r"c:\windows\temp\b.exe")


@pytest.mark.parametrize("stream", [r"c:\windows\tasks:b.exe", r"c:\windows\a.exe:b", r"c:\windows\temp:b.exe:$data"])
def test_a_stream_is_no_file_of_its_folder(stream: str) -> None:
    """It can be a stream of a subfolder where users can write."""
    assert not decide(learn([Seen(r"c:\windows\a.exe")]).text, stream)
    assert rules(Seen(stream)) == []
    assert rules(Seen(stream, sha256=HASH)) == [{"sha256": [HASH]}]


@pytest.mark.parametrize("name", ["temp::$index_allocation", "temp:$i30:$index_allocation", "servic~1"])
def test_another_name_of_a_folder_that_users_can_write_to_is_not_trusted(name: str) -> None:
    assert rules(Seen(rf"c:\windows\{name}\a.exe")) == []


@pytest.mark.parametrize("folder", [*WRITABLE, "c:\\users\\alice\\", "d:\\windows\\", "c:\\windows2\\", "c:\\"])
def test_no_folder_that_users_may_write_to_is_trusted(folder: str) -> None:
    assert rules(Seen(f"{folder}a.exe")) == []
    assert rules(Seen(f"{folder}x\\a.exe", sha256=HASH)) == [{"sha256": [HASH]}]


def test_a_folder_that_this_machine_says_users_can_write_to_is_not_trusted() -> None:
    folder = "c:\\program files\\open\\"
    lesson = learn([Seen(folder + "a.exe"), Seen("c:\\windows\\a.exe")], writable=lambda path: path == folder)
    assert [rule["image"] for rule in tomllib.loads(lesson.text)["rule"]] == ["c:/windows/*"]
    assert lesson.not_learned == {folder + "a.exe": 1}


def test_a_program_without_a_safe_rule_is_named_and_not_allowed() -> None:
    lesson = learn([Seen(r"c:\users\a.exe"), Seen(r"c:\users\a.exe"), Seen(r"c:\windows\a.exe")])
    assert (lesson.starts, lesson.rules, lesson.not_learned) == (3, 1, {r"c:\users\a.exe": 2})
    assert "# not learned: c:/users/a.exe: 2 starts" in lesson.text.splitlines()
    assert not decide(lesson.text, r"c:\users\a.exe")


def test_groups_carry_counts_and_times_and_the_most_frequent_comes_first() -> None:
    seen = [Seen(rf"c:\windows\{i % 8}.exe", NOON + timedelta(hours=i)) for i in range(10)]
    lesson = learn([Seen(r"c:\program files\x\a.exe", NOON), *seen])
    lines = lesson.text.splitlines()
    first = lines.index("# 10 starts, from 2026-01-31 12:00 to 2026-01-31 21:00 UTC")
    assert lines[first + 1].startswith("# c:/windows/0.exe, c:/windows/1.exe, ")
    assert lines[first + 1].endswith(" and 2 more")
    assert lines.index("# 1 start, on 2026-01-31 12:00 UTC") > first


def test_all_hashes_of_one_path_are_one_rule() -> None:
    other = "cd" * 32
    assert rules(Seen(r"c:\a.exe", sha256=other), Seen(r"c:\a.exe", sha256=HASH)) == [{"sha256": [HASH, other]}]


def test_a_learned_policy_allows_what_it_was_learned_from_and_only_logs() -> None:
    seen = [
        Seen(r"c:\windows\system32\cmd.exe", NOON),
        Seen(r"c:\users\it's\a ü.exe", NOON, sha256=HASH),
        Seen(r"c:\users\b.exe", NOON, signer='Say "Hi" Ltd', product="A\\B"),
    ]
    text = learn(seen).text
    assert Policy.check(text) == []
    assert Policy.parse(text).mode == "audit"
    for each in seen:
        assert decide(text, each.image, signer=each.signer, product=each.product, sha256=each.sha256)
    assert not decide(text, r"c:\users\c.exe", signer="Other", product="A\\B", sha256="00" * 32)


# -------------------------------------------------------------------------------------------------------- the starter


ORDINARY = [
    "smss.exe", "csrss.exe", "wininit.exe", "winlogon.exe", "services.exe", "lsass.exe", "svchost.exe", "spoolsv.exe",
    "taskhostw.exe", "userinit.exe", "dwm.exe", "conhost.exe", "cmd.exe", "notepad.exe", "rundll32.exe", "mmc.exe",
    "regsvr32.exe", "wscript.exe", r"windowspowershell\v1.0\powershell.exe", r"wbem\wmiprvse.exe", "runtimebroker.exe",
]  # fmt: skip


def started(image: str, parent: str = r"c:\windows\explorer.exe", **facts: object) -> tuple[bool, str]:
    """Does the starter policy let it run, and by which rule?"""
    details = SimpleNamespace(parent=parent, **facts)
    line = facts.get("command_line")
    process = ProcessHelper(pid=8, parent_pid=0, image_name=image, command_line=None if line is None else str(line))
    decision = Policy.parse(STARTER, details=lambda _: details).decide(process)
    return decision.verdict is not BLOCK or decision.audited, decision.who


def test_the_starter_has_no_mistakes_and_is_enforced() -> None:
    assert Policy.check(STARTER) == []
    assert Policy.parse(STARTER).mode == "enforce"


@pytest.mark.parametrize("name", ORDINARY)
@pytest.mark.parametrize("folder", ["system32", "syswow64"])
def test_the_starter_lets_windows_run(name: str, folder: str) -> None:
    assert started(rf"c:\windows\{folder}\{name}", command_line=name) == (True, "")


@pytest.mark.parametrize(
    ("image", "parent"),
    [
        (r"c:\users\alice\svchost.exe", r"c:\windows\explorer.exe"),
        (r"c:\windows\lsass.exe", r"c:\windows\explorer.exe"),
        (r"d:\$recycle.bin\s-1-5-21\a.exe", r"c:\windows\explorer.exe"),
        (r"c:\users\alice\downloads\invoice.pdf.exe", r"c:\windows\explorer.exe"),
        (r"c:\windows\system32\wscript.exe", r"c:\program files\microsoft office\root\office16\winword.exe"),
    ],
)
def test_the_starter_blocks_what_no_user_means(image: str, parent: str) -> None:
    assert started(image, parent)[0] is False


def test_the_starter_only_logs_what_may_be_meant() -> None:
    image = r"c:\windows\system32\windowspowershell\v1.0\powershell.exe"
    line = "powershell -w hidden -enc AAAA"
    assert started(image, command_line=line) == (True, "hidden PowerShell with an encoded command")
    assert started(r"c:\users\a.exe", origin="internet") == (True, "unsigned programs from the internet")
    assert started(r"c:\users\a.exe", origin="internet", signer="Example Ltd") == (True, "")


HALF = "\ud800"
"""A lone surrogate, which a Windows file name may contain and a TOML text may not."""


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (Seen(f"c:\\users\\{HALF}.exe", sha256=HASH), [{"sha256": [HASH]}]),
        (Seen("c:\\users\\a.exe", signer="Example Ltd", product=HALF, sha256=HASH), [{"sha256": [HASH]}]),
        (Seen(f"c:\\windows\\{HALF}\\a.exe", sha256=HASH), [{"sha256": [HASH]}]),
        (Seen(f"c:\\windows\\{HALF}\\a.exe"), []),
    ],
)
def test_a_name_that_no_policy_can_say_ends_no_lesson(seen: Seen, expected: list[dict[str, object]]) -> None:
    assert rules(seen) == expected


def test_a_name_with_unseen_characters_cannot_disguise_its_rule() -> None:
    text = learn(
        [Seen("c:\\users\\\u202egpj.exe", sha256=HASH, signer="Ex\u2066ample\U000e0041", product="\u00adx")]
    ).text
    assert text.replace("\n", "").isprintable()
    assert Policy.check(text) == []
    assert tomllib.loads(text)["rule"][0]["signer"] == {"equals": "Ex\u2066ample\U000e0041"}


@pytest.mark.parametrize("sha256", ["", "zz", "AB" * 31, "gg" * 32, HASH + "\n", HASH + "'"])
def test_what_is_no_hash_makes_no_rule(sha256: str) -> None:
    """The log is data: with such a rule the policy could not be loaded."""
    lesson = learn([Seen(r"c:\users\a.exe", sha256=sha256)])
    assert (lesson.rules, lesson.not_learned) == (0, {r"c:\users\a.exe": 1})
    Policy.parse(lesson.text)


def test_a_hash_in_upper_case_is_the_same_hash() -> None:
    programs = [Seen(r"c:\users\a.exe", sha256=each) for each in (HASH, HASH.upper())]
    assert rules(*programs) == [{"sha256": [HASH]}]


TEXTS = st.text(alphabet=st.sampled_from("a\\/:*?\"'# \n\r\t\0\x1b\u202e\ud800\U0001f600[]=.S-1"), max_size=12)


@given(st.lists(st.builds(Seen, TEXTS, signer=st.none() | TEXTS, product=st.none() | TEXTS, sha256=st.none() | TEXTS)))
def test_whatever_a_log_holds_the_policy_can_be_loaded(programs: list[Seen]) -> None:
    Policy.parse(learn([replace(seen, image="c:\\windows\\" + seen.image) for seen in programs]).text)
    Policy.parse(learn(programs).text)
