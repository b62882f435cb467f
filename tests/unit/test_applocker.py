"""AppLocker's exported policies become policies that decide the same."""

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import procmon
from procmon import ALLOW, BLOCK, DecidedBy, Policy, PolicyError, ProcessHelper
from procmon.policy.applocker import read_applocker

ADMINISTRATORS = "S-1-5-32-544"

PATH_RULE = """
    <FilePathRule Id="921cc481-6e17-4653-8f75-050b80acca20" Name="{name}" Description="{description}"
        UserOrGroupSid="{sid}" Action="{action}">
      <Conditions><FilePathCondition Path="{path}" /></Conditions>{exceptions}
    </FilePathRule>"""

PUBLISHER_RULE = """
    <FilePublisherRule Id="b7af7102-efde-4369-8a89-7a6a392d1473" Name="{name}" Description=""
        UserOrGroupSid="S-1-1-0" Action="{action}">
      <Conditions>{condition}</Conditions>
    </FilePublisherRule>"""

CONTOSO = """
        <FilePublisherCondition PublisherName="O=CONTOSO, L=LONDON, C=GB" ProductName="{product}" BinaryName="{binary}">
          <BinaryVersionRange LowSection="{low}" HighSection="{high}" />
        </FilePublisherCondition>"""

HASH_RULE = """
    <FileHashRule Id="dac68771-3b7f-4d9b-8d4c-3d8a5f1b2c77" Name="hash" Description="" UserOrGroupSid="S-1-1-0"
        Action="Allow">
      <Conditions><FileHashCondition>
        <FileHash Type="{kind}" Data="0x{data}" SourceFileName="a.exe" SourceFileLength="12" />
        <FileHash Type="SHA256" Data="0xBB{rest}" SourceFileName="b.exe" SourceFileLength="12" />
      </FileHashCondition></Conditions>
    </FileHashRule>"""


def path_rule(path: str, action: str = "Allow", **options: str) -> str:
    filled = {"name": f"{action} {path}", "description": "", "sid": "S-1-1-0", "exceptions": ""} | options
    return PATH_RULE.format(path=path, action=action, **filled)


def publisher(product: str = "*", binary: str = "*", low: str = "*", high: str = "*") -> str:
    return CONTOSO.format(product=product, binary=binary, low=low, high=high)


def exported(*rules: str, mode: str = "Enabled", more: str = "") -> bytes:
    """The output of ``Get-AppLockerPolicy -Effective -Xml``."""
    collection = f'<RuleCollection Type="Exe" EnforcementMode="{mode}">{"".join(rules)}\n  </RuleCollection>'
    return f'<AppLockerPolicy Version="1">\n  {collection}{more}\n</AppLockerPolicy>'.encode()


Decide = Callable[..., procmon.Decision]


def imported(*rules: str, **options: str) -> Decide:
    """Ask the policy of these rules about an image, with these facts."""
    text = read_applocker(exported(*rules, **options), "applocker.xml").text

    def decide(image: str, **facts: object) -> procmon.Decision:
        facts = {"user": r"PC\alice", "user_sid": "S-1-5-21-1-2-3-1001", "group": ("S-1-1-0",)} | facts
        policy = Policy.parse(text, details=lambda _: SimpleNamespace(**facts))
        return policy.decide(ProcessHelper(pid=8, parent_pid=4, image_name=image.lower().replace("/", "\\")))

    return decide


def test_what_no_rule_allows_is_blocked() -> None:
    decide = imported(path_rule(r"%PROGRAMFILES%\*"))
    assert decide("c:/program files/a/b.exe").verdict is ALLOW
    assert decide("c:/program files (x86)/a.exe").verdict is ALLOW
    decision = decide("c:/users/alice/a.exe")
    assert (decision.verdict, decision.by) == (BLOCK, DecidedBy.DEFAULT)


def test_a_deny_rule_is_asked_before_an_allow_rule() -> None:
    decide = imported(path_rule("*"), path_rule(r"C:\tools\*", "Deny", description="Not these"))
    assert decide("c:/windows/notepad.exe").verdict is ALLOW
    denied = decide("c:/tools/a.exe")
    assert (denied.verdict, denied.by) == (BLOCK, DecidedBy.RULE)
    assert denied.note is not None and denied.note.message == "Not these"


def test_the_system_account_is_not_controlled() -> None:
    decide = imported(path_rule(r"C:\a\*", "Deny"))
    assert decide("c:/a/x.exe", user=r"NT AUTHORITY\SYSTEM", user_sid="S-1-5-18").verdict is ALLOW
    assert decide("c:/a/x.exe").verdict is BLOCK


@pytest.mark.parametrize(
    ("path", "matching", "others"),
    [
        (r"%OSDRIVE%\tools\*", ["c:/tools/a.exe", "c:/tools/x/a.exe"], ["d:/tools/a.exe", "c:/tool/a.exe"]),
        (r"%WINDIR%\*", ["c:/windows/a.exe", "c:/windows/system32/x/a.exe"], ["c:/windows2/a.exe"]),
        (r"%system32%\a.exe", ["c:/windows/system32/a.exe", "c:/windows/syswow64/a.exe"], ["c:/windows/a.exe"]),
        (r"C:\Tools\A.exe", ["c:/tools/a.exe"], ["c:/x/tools/a.exe", "c:/tools/a.exe.exe"]),
        (r"C:\*\a.exe", ["c:/x/a.exe", "c:/x/y/a.exe"], ["c:/a.exe", "d:/x/a.exe"]),
        (r"C:\Users\*\App*\*.exe", ["c:/users/a/b/appdata/c/d.exe", "c:/users/a/app/b.exe"], ["c:/users/app/b.exe"]),
        ("*.scr", ["c:/a/b.scr"], ["c:/a.scr/b.exe"]),
        ("*temp*", ["c:/temp/a.exe", "c:/a/mytemp.exe"], ["c:/tmp/a.exe"]),
        (r"\\server\share\*", ["//server/share/a.exe"], ["//server/shared/a.exe"]),
        (r"C:\[x]\*", ["c:/[x]/a.exe"], ["c:/x/a.exe"]),
    ],
)
def test_paths_match_as_in_applocker(path: str, matching: list[str], others: list[str]) -> None:
    decide = imported(path_rule(path))
    assert [image for image in [*matching, *others] if decide(image).verdict is ALLOW] == matching


def test_a_publisher_rule_compares_publisher_product_file_and_version() -> None:
    condition = publisher("CONTOSO SUITE", "A.EXE", "1.2.0.0", "2.0.0.0")
    decide = imported(PUBLISHER_RULE.format(name="ours", action="Allow", condition=condition))
    facts = {
        "publisher": "O=Contoso, L=London, C=GB",
        "product": "Contoso Suite",
        "original_file_name": "a.exe",
        "file_version": "1.10.0.5",
    }
    assert decide("c:/a.exe", **facts).verdict is ALLOW
    for change in (
        {"publisher": None},
        {"publisher": "O=Contoso, L=Paris, C=GB"},
        {"product": "Other"},
        {"original_file_name": "b.exe"},
        {"file_version": "1.1.9.9"},
        {"file_version": "2.0.0.1"},
        {"file_version": None},
    ):
        assert decide("c:/a.exe", **(facts | change)).verdict is BLOCK, change


def test_any_publisher_is_any_whose_signature_is_valid() -> None:
    condition = publisher().replace("O=CONTOSO, L=LONDON, C=GB", "*")
    decide = imported(PUBLISHER_RULE.format(name="signed", action="Allow", condition=condition))
    assert decide("c:/a.exe", publisher="O=Other").verdict is ALLOW
    assert decide("c:/a.exe").verdict is BLOCK


def test_a_hash_is_that_of_authenticode_or_of_the_file() -> None:
    decide = imported(HASH_RULE.format(kind="SHA256", data="AA" * 32, rest="BB" * 31))
    assert decide("c:/a.exe", authenticode_sha256="aa" * 32).verdict is ALLOW
    assert decide("c:/a.exe", authenticode_sha256="bb" * 32).verdict is ALLOW
    assert decide("c:/a.exe", sha256="aa" * 32).verdict is BLOCK
    decide = imported(HASH_RULE.format(kind="SHA256Flat", data="AA" * 32, rest="BB" * 31))
    assert decide("c:/a.exe", sha256="aa" * 32).verdict is ALLOW
    assert decide("c:/a.exe", authenticode_sha256="bb" * 32).verdict is ALLOW
    assert decide("c:/a.exe", authenticode_sha256="aa" * 32).verdict is BLOCK


def test_exceptions_of_any_kind_are_excepted() -> None:
    exceptions = f'<Exceptions><FilePathCondition Path="%WINDIR%\\Temp\\*" />{publisher("X")}</Exceptions>'
    decide = imported(path_rule(r"%WINDIR%\*", exceptions=exceptions))
    assert decide("c:/windows/a.exe").verdict is ALLOW
    assert decide("c:/windows/temp/a.exe").verdict is BLOCK
    assert decide("c:/windows/a.exe", publisher="O=Contoso, L=London, C=GB", product="x").verdict is BLOCK


@pytest.mark.parametrize(("sid", "allowed"), [(ADMINISTRATORS, True), ("S-1-5-21-9", True), ("S-1-5-32-545", False)])
def test_a_rule_for_a_group_or_a_user_asks_the_token(sid: str, allowed: bool) -> None:
    decide = imported(path_rule("*", sid=sid))
    decision = decide("c:/a.exe", group=("S-1-1-0", ADMINISTRATORS), user_sid="S-1-5-21-9")
    assert (decision.verdict is ALLOW) is allowed


@pytest.mark.parametrize(("mode", "audited"), [("AuditOnly", True), ("Enabled", False), ("NotConfigured", False)])
def test_audit_only_becomes_the_mode_audit(mode: str, audited: bool) -> None:
    decision = imported(path_rule(r"C:\x\*"), mode=mode)("c:/a.exe")
    assert (decision.verdict, decision.audited) == (BLOCK, audited)


def test_other_collections_are_named_as_left_out() -> None:
    more = f'<RuleCollection Type="Dll" EnforcementMode="Enabled">{path_rule("*")}</RuleCollection>'
    result = read_applocker(exported(path_rule("*"), more=more), "a.xml")
    assert result.left_out == ("1 rules of the collection Dll: a policy decides about processes that start",)
    assert "# left out: 1 rules of the collection Dll" in result.text
    assert result.rules == 1


def test_a_collection_alone_as_device_management_has_it_is_read() -> None:
    data = f'<RuleCollection Type="Exe" EnforcementMode="Enabled">{path_rule("*")}</RuleCollection>'.encode("utf-16")
    assert len(tomllib.loads(read_applocker(data, "a.xml").text)["rule"]) == 2


def test_windows_on_another_drive() -> None:
    result = read_applocker(exported(path_rule(r"%WINDIR%\*")), "a.xml", drive="d:")
    assert tomllib.loads(result.text)["rule"][1]["image"] == "d:/windows/**"


def test_names_are_kept_with_their_identifiers_and_any_character() -> None:
    rule = path_rule("*", name="&quot;A&quot; isn&apos;t&#10;B", description="tab\there")
    [_, made] = tomllib.loads(read_applocker(exported(rule), "a.xml").text)["rule"]
    assert made["name"] == '"A" isn\'t B (921cc481-6e17-4653-8f75-050b80acca20)'


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (path_rule(r"%REMOVABLE%\*"), "which drives are CDs and DVDs"),
        (path_rule(r"%HOT%\*"), "which drives can be unplugged"),
        (path_rule(r"%TEMP%\*"), "which AppLocker does not have"),
        (path_rule(r"C:\x\%USERNAME%\*"), "a variable in its middle"),
        (path_rule("C:\\x\\"), "names no file"),
        (path_rule("*", action="Maybe"), "neither Allow nor Deny"),
        (path_rule("*", sid="alice"), "is no SID"),
        (HASH_RULE.format(kind="SHA1", data="AA" * 20, rest="BB" * 31), "a hash of the kind SHA1"),
        (HASH_RULE.format(kind="SHA256", data="AA" * 20, rest="BB" * 31), "is not 64 hexadecimal digits"),
        (
            PUBLISHER_RULE.format(name="x", action="Allow", condition=publisher(low="1.x")),
            "the version 1.x is not four numbers",
        ),
        *(
            (
                PUBLISHER_RULE.format(name="x", action="Deny", condition=publisher(binary=binary)),
                re.escape(f"the file name {binary} has a wildcard in a text"),
            )
            for binary in ("*PSEXEC*", "PSEXE?", "PS*")
        ),
        (PUBLISHER_RULE.format(name="x", action="Allow", condition=""), "0 conditions instead of one"),
        (PUBLISHER_RULE.format(name="x", action="Allow", condition="<Odd/>"), "an unknown kind, Odd"),
    ],
)
def test_what_has_no_counterpart_is_an_error_that_names_the_rule(rule: str, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason) as raised:
        read_applocker(exported(path_rule(r"C:\ok\*"), rule), "a.xml")
    assert str(raised.value).startswith("a.xml: a policy cannot say all of it\n  rule ")
    assert "C:\\ok" not in str(raised.value)


@pytest.mark.parametrize("anything", ["*", "?"])
def test_a_deny_rule_for_any_file_name_blocks_each(anything: str) -> None:
    text = read_applocker(
        exported(PUBLISHER_RULE.format(name="x", action="Deny", condition=publisher(binary=anything))), "a.xml"
    ).text
    assert "original_file_name" not in text


def test_a_wildcard_in_the_name_of_a_publisher_or_product_is_a_text() -> None:
    condition = publisher(product="?", binary="A.EXE").replace("O=CONTOSO", "O=*CONTOSO*")
    text = read_applocker(exported(PUBLISHER_RULE.format(name="x", action="Deny", condition=condition)), "a.xml").text
    assert 'publisher.equals = "O=*CONTOSO*, L=LONDON, C=GB"' in text
    assert 'product.equals = "?"' in text and 'original_file_name.equals = "A.EXE"' in text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<AppLockerPolicy", "it is not XML"),
        (b"<Other/>", "it is no AppLocker policy but a Other"),
        (b'<AppLockerPolicy Version="1"/>', "it has no rules for executables"),
        (exported(), "it has no rules for executables"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><AppLockerPolicy/>', "a document type"),
    ],
)
def test_what_is_no_policy_of_executables_is_an_error(data: bytes, reason: str) -> None:
    with pytest.raises(PolicyError, match=reason):
        read_applocker(data, "a.xml")


def test_an_imported_policy_has_no_mistakes(tmp_path: Path) -> None:
    rules = [path_rule(r"%PROGRAMFILES%\*"), path_rule(r"%WINDIR%\*", name="w"), path_rule("*", sid=ADMINISTRATORS)]
    assert Policy.check(read_applocker(exported(*rules[:2]), "a.xml").text) == []
    assert Policy.check(read_applocker(exported(*rules[2:]), "a.xml").text) == []


@pytest.mark.parametrize("encoding", ["foo", "utf-7", "utf-32", "idna"])
def test_an_encoding_that_xml_does_not_have_is_said(encoding: str) -> None:
    with pytest.raises(PolicyError, match="it is not XML"):
        read_applocker(f'<?xml version="1.0" encoding="{encoding}"?><AppLockerPolicy/>'.encode(), "a.xml")


def test_a_second_collection_for_executables_is_not_left_out_in_silence() -> None:
    more = f'<RuleCollection Type="Exe">{path_rule("C:/a/*", "Deny")}</RuleCollection>'
    with pytest.raises(PolicyError, match="2 collections of rules for executables"):
        read_applocker(exported(path_rule("*"), more=more), "a.xml")
