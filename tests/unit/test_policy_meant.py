"""Policies as people write them, and whether they do what was meant: each with starts and their verdicts."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest

import procmon
from procmon import ALLOW, BLOCK, DEFER, Policy, ProcessHelper, Verdict

OURS, THEIRS = "ab" * 32, "cd" * 32


@dataclass
class Machine:
    """A gate, a policy, and the facts that a look-up finds about the next process."""

    policy: Policy
    gate: procmon.SimulatedGate

    def starts(
        self, image: str, parent: ProcessHelper | None = None, command_line: str | None = None, **facts: object
    ) -> Verdict:
        self.found = SimpleNamespace(
            **{"command_line": None, "user": None, "user_sid": None, "session": None, "sha256": None, "signer": None}
            | facts
        )
        self.last = self.gate.start(image, parent_pid=parent.pid if parent else 4, command_line=command_line)
        return self.policy.decide(self.last).verdict


def machine(text: str) -> Machine:
    assert Policy.check(text) == []  # none of these is warned of
    made = Machine(Policy.parse(text, details=lambda _: made.found), procmon.SimulatedGate())
    return made


class TestPoliciesOfPeople:
    def test_no_programs_from_office(self) -> None:
        pc = machine("""
            [[rule]]
            ancestor = ["winword.exe", "excel.exe"]
            image = ["cmd.exe", "powershell.exe", "**/wscript.exe"]
            verdict = "block"
        """)
        pc.starts(r"C:\Program Files\Microsoft Office\root\Office16\WINWORD.EXE")
        word = pc.last
        assert pc.starts(r"C:\Windows\System32\cmd.exe", word) is BLOCK
        assert pc.starts(r"C:\Windows\SysWOW64\WindowsPowerShell\v1.0\POWERSHELL.EXE", word) is BLOCK
        assert pc.starts(r"C:\Windows\splwow64.exe", word) is ALLOW
        between = pc.last
        assert pc.starts(r"C:\Windows\System32\wscript.exe", between) is BLOCK
        assert pc.starts(r"C:\Windows\System32\cmd.exe") is ALLOW
        assert pc.starts(r"C:\Users\ann\cmd-copy.exe", word) is ALLOW  # a renamed copy: see docs/policy.md

    def test_ask_about_downloads(self) -> None:
        pc = machine("""
            [[rule]]
            image = ["**/downloads/**", "**/temp/**", "**/appdata/local/temp/**"]
            verdict = "ask"
        """)
        assert pc.starts(r"C:\Users\ann\Downloads\setup.exe") is DEFER
        assert pc.starts(r"C:\Users\ann\Downloads\new\setup.exe") is DEFER
        assert pc.starts(r"D:\Downloads\setup.exe") is DEFER
        assert pc.starts(r"\\nas\share\downloads\setup.exe") is DEFER
        assert pc.starts(r"\device\harddiskvolume7\downloads\setup.exe") is DEFER
        assert pc.starts(r"C:\Users\ann\Downloads2\setup.exe") is ALLOW
        assert pc.starts(r"C:\Downloads.exe") is ALLOW

    def test_only_what_is_listed_by_hash(self) -> None:
        pc = machine(f"""
            default = "block"
            [[rule]]
            sha256 = ["{OURS.upper()}", "{"ef" * 32}"]
            verdict = "allow"
        """)
        assert pc.starts("c:/renamed.exe", sha256=OURS) is ALLOW
        assert pc.starts("c:/other.exe", sha256=THEIRS) is BLOCK
        assert pc.starts("c:/unreadable.exe") is BLOCK  # not known: an allowing rule does not match
        assert pc.starts("c:/windows/system32/csrss.exe") is ALLOW

    def test_one_signer_is_blocked_and_unsigned_programs_are_asked_about(self) -> None:
        pc = machine("""
            default = "ask"
            [[rule]]
            signer = "Adware, Inc.*"
            verdict = "block"
            [[rule]]
            signer = "*"
            verdict = "allow"
        """)
        assert pc.starts("c:/a.exe", signer="ADWARE, Inc. (Delaware)") is BLOCK
        assert pc.starts("c:/a.exe", signer="Example Ltd") is ALLOW
        assert pc.starts("c:/a.exe") is DEFER

    @pytest.mark.parametrize("user", ["'KIOSK\\guest'", '"kiosk/Guest"', '"guest"', '"KIOSK/*"', '"S-1-5-21-1-501"'])
    def test_a_guest_may_run_nothing_but_the_browser(self, user: str) -> None:
        pc = machine(f"""
            [[rule]]
            user = {user}
            image = "c:/program files/browser/browser.exe"
            verdict = "allow"
            [[rule]]
            user = {user}
            verdict = "block"
        """)
        guest: dict[str, Any] = {"user": "KIOSK\\guest", "user_sid": "S-1-5-21-1-501"}
        assert pc.starts(r"C:\Program Files\Browser\browser.exe", **guest) is ALLOW
        assert pc.starts(r"C:\Windows\regedit.exe", **guest) is BLOCK
        assert pc.starts(r"C:\Windows\regedit.exe", user="PC\\ann", user_sid="S-1-5-21-1-1001") is ALLOW

    def test_whatever_a_build_starts_is_let_pass_and_the_rest_asked_about(self) -> None:
        pc = machine("""
            default = "ask"
            [[rule]]
            ancestor = 'c:\\tools\\make.exe'
            verdict = "allow"
        """)
        assert pc.starts("c:/tools/make.exe") is DEFER  # itself is not its own ancestor
        make = pc.last
        assert pc.starts("c:/tools/cc.exe", make) is ALLOW
        assert pc.starts("c:/temp/as.exe", pc.last) is ALLOW
        assert pc.starts("d:/tools/make.exe") is DEFER
        assert pc.starts("c:/tools/cc.exe", pc.last) is DEFER

    def test_services_start_what_they_like_and_people_are_asked(self) -> None:
        pc = machine("""
            [[rule]]
            session = 0
            verdict = "allow"
            [[rule]]
            image = "*.scr"
            verdict = "ask"
        """)
        assert pc.starts("c:/a.scr", session=0) is ALLOW
        assert pc.starts("c:/a.scr", session=1) is DEFER
        assert pc.starts("c:/a.scr") is DEFER

    @pytest.mark.parametrize(
        "pattern", ["""'*"c:\\x y\\run.js" /e:jscript*'""", '"*\\"C:\\\\x y\\\\run.js\\" /E:*"', '"""*run.js" /e*"""']
    )
    def test_a_command_line_with_quotes(self, pattern: str) -> None:
        pc = machine(f"[[rule]]\nimage = 'wscript.exe'\ncommand_line = {pattern}\nverdict = 'block'")
        script = r'wscript  "C:\x y\run.js" /e:JScript //nologo'
        assert pc.starts("c:/windows/system32/wscript.exe", command_line=script) is BLOCK
        assert pc.starts("c:/windows/system32/wscript.exe", command_line='wscript "C:\\x y\\other.js" /e:x') is ALLOW
        assert pc.starts("c:/windows/system32/other.exe", command_line=script) is ALLOW

    def test_a_share(self) -> None:
        for image in (r"'\\nas\tools\**'", "'//NAS/tools/**'", r'"\\\\nas\\tools\\**"'):
            pc = machine(f"[[rule]]\nimage = {image}\nverdict = 'block'")
            assert pc.starts(r"\\nas\Tools\x\a.exe") is BLOCK
            assert pc.starts(r"\\nas2\tools\a.exe") is ALLOW
            assert pc.starts(r"c:\nas\tools\a.exe") is ALLOW

    def test_streams_shadow_folders_and_what_is_hidden_behind_a_blank(self) -> None:
        pc = machine("""
            [[rule]]
            image = ["*:*", "**/windows /**", "* ", "*."]
            verdict = "block"
        """)
        assert pc.starts(r"c:\users\ann\readme.txt:evil.exe") is BLOCK
        assert pc.starts("c:\\windows \\system32\\computerdefaults.exe") is BLOCK
        assert pc.starts("c:\\windows\\system32\\cmd.exe ") is BLOCK
        assert pc.starts("c:\\windows\\system32\\cmd.exe.") is BLOCK
        assert pc.starts(r"c:\windows\system32\cmd.exe") is ALLOW

    def test_whoever_is_asked_on_trial_decides_before_the_rules_below(self) -> None:
        pc = machine("""
            [[rule]]
            image = "a*.exe"
            verdict = "block"
            audit = true
            [[rule]]
            image = "*b.exe"
            verdict = "block"
        """)
        pc.starts("c:/ab.exe")
        decision = pc.policy.decide(pc.last)
        assert (decision.who, decision.audited) == ("1", True)

    def test_what_is_not_known_neither_blocks_nor_allows(self) -> None:
        for fact in ("user = 'a'", "session = 1", f"sha256 = '{OURS}'", "signer = '*'", "command_line = '*'"):
            for verdict in ("block", "allow"):
                for default in (ALLOW, BLOCK):
                    text = f"default = '{default.value}'\n[[rule]]\n{fact}\nverdict = '{verdict}'"
                    assert machine(text).starts("c:/a.exe") is default

    @pytest.mark.parametrize(
        ("spelled", "same"),
        [
            ("C:/TOOLS/A.EXE", True), (r"'c:\tools\a.exe'", True), ("c:/tools/a.exe", True), ("a.exe", True),
            ("c:/tools/*", True), ("c:/**", True), ("?:/tools/a.exe", True), ("tools~1/a.exe", False),
            ("c:/to~1/a.exe", False), ("a", False), ("c:/tools", False),
        ],
    )  # fmt: skip
    def test_one_path_in_many_spellings(self, spelled: str, same: bool) -> None:
        quoted = spelled if spelled.startswith("'") else f'"{spelled}"'
        text = f"[[rule]]\nimage = {quoted}\nverdict = 'ask'"
        try:
            policy = Policy.parse(text)
        except procmon.PolicyError:
            assert not same
        else:
            assert (policy.decide(procmon.SimulatedGate().start(r"C:\Tools\a.exe")).verdict is DEFER) is same


def test_a_device_path_is_for_volumes_without_a_letter() -> None:
    policy = Policy.parse("[[rule]]\nimage = '/device/harddiskvolume2/**'\nverdict = 'block'")
    record = ProcessHelper(pid=8, parent_pid=4, image_name=r"c:\a.exe", native_name=r"\Device\HarddiskVolume2\a.exe")
    assert policy.decide(record).verdict is ALLOW
    assert policy.decide(replace(record, image_name=r"\device\harddiskvolume2\a.exe")).verdict is BLOCK
