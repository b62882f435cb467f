"""``procmon-gate policy`` replay with the logs of other tools, import, learn and init."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import procmon
from procmon import ALLOW, BLOCK, AuditLog, DecidedBy, Decision, Policy, VerdictResult
from procmon.cli import main, statuses

APPLOCKER = """<AppLockerPolicy Version="1"><RuleCollection Type="Exe" EnforcementMode="AuditOnly">
<FilePathRule Id="a61c8b2c-a319-4cd0-9690-d2177cad7b51" Name="Windows" Description="" UserOrGroupSid="S-1-1-0"
  Action="Allow"><Conditions><FilePathCondition Path="{path}" /></Conditions></FilePathRule>
</RuleCollection></AppLockerPolicy>"""


@pytest.fixture
def sysmon(tmp_path: Path) -> Path:
    """Two process creations of Sysmon as Winlogbeat writes them, and a line that is cut."""
    lines = []
    for pid, image in ((8, "C:\\games\\chess.exe"), (12, "C:\\Windows\\a.exe")):
        data = {"ProcessId": str(pid), "ParentProcessId": "4", "Image": image, "Hashes": f"SHA256={'AB' * 32}"}
        winlog = {"provider_name": "Microsoft-Windows-Sysmon", "event_id": "1", "event_data": data}
        lines.append(json.dumps({"@timestamp": "2026-01-31T12:00:00Z", "winlog": winlog}))
    path = tmp_path / "sysmon.jsonl"
    path.write_text("\n".join([*lines, lines[0][:40]]), encoding="utf-8")
    return path


@pytest.fixture
def audit_log(tmp_path: Path) -> Path:
    """An audit log: a signed program that ran, and one that was blocked."""
    gate = procmon.SimulatedGate()
    path = tmp_path / "audit.jsonl"
    with AuditLog(path) as log:
        for image, verdict in (("c:/tools/a.exe", ALLOW), ("c:/tools/b.exe", BLOCK)):
            facts = {"signer": "Example Ltd", "product": "Suite", "user": [r"PC\alice", "S-1-5-21-1"]}
            decision = Decision(process=gate.start(image), verdict=verdict, by=DecidedBy.RULE, who="x", facts=facts)
            log.write(decision)
    return path


def test_replay_reads_recordings_of_other_tools(policy: Path, sysmon: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["policy", "replay", str(policy), str(sysmon)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "2 process creations: 1 would be blocked, 0 asked about, 0 only logged, 1 allowed",
        r"      1 x  block  c:\games\chess.exe by rule no games",
        f"  {sysmon}, line 3: not an event (it ends in the middle), so it is left out",
    ]


def test_replay_of_recordings_has_all_of_it_in_json(
    policy: Path, sysmon: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_text(policy.read_text(encoding="utf-8") + '[[rule]]\nsigner = "x"\nverdict = "block"\n', "utf-8")
    assert main.main(["policy", "replay", "--json", str(policy), str(sysmon)]) == 0
    match, missing, damaged, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (match["event"], match["decision"]["who"], match["decision"]["process"]["pid"]) == ("match", "no games", 8)
    assert missing == {"event": "missing", "fact": "signer", "processes": 1}
    assert (damaged["event"], damaged["line"]) == ("damaged", 3)
    assert summary == {"event": "summary", "processes": 2, "blocked": 1, "asked": 0, "audited": 0, "allowed": 1}


def test_replay_takes_several_logs_of_either_kind(
    policy: Path, sysmon: Path, audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["policy", "replay", str(policy), str(sysmon), str(audit_log)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert (lines[0], lines[4]) == (f"{sysmon}:", f"{audit_log}:")
    assert lines[5] == "2 decisions: 1 would change, 1 would not"


def test_replay_of_a_file_without_process_creations_says_what_to_give(
    policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "notes.txt"
    log.write_text("hello\n", encoding="utf-8")
    assert main.main(["policy", "replay", str(policy), str(log)]) == statuses.FAILED
    assert (
        "it holds no process creation that procmon can read; give an audit log, or event 1" in capsys.readouterr().err
    )


def test_replay_of_an_audit_log_knows_what_was_looked_up_then(tmp_path: Path, audit_log: Path) -> None:
    rule = '[[rule]]\nsigner = "Example Ltd"\nuser = "{}"\nverdict = "block"\n'
    for account in ("alice", "S-1-5-21-1"):
        result = procmon.audit.replay(audit_log, Policy.parse(rule.format(account)))
        assert (len(result.changes), result.missing) == (1, {})
    assert len(procmon.audit.replay(audit_log, Policy.parse(rule.format("bob"))).changes) == 1  # no longer blocked


def test_applocker_is_imported_to_a_file_or_to_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported, made = tmp_path / "applocker.xml", tmp_path / "policy.toml"
    exported.write_text(APPLOCKER.format(path=r"%WINDIR%\*"), encoding="utf-8")
    assert main.main(["policy", "import", "applocker", str(exported), "-o", str(made)]) == 0
    assert capsys.readouterr().out == f"{made}: 1 rules\n"
    assert Policy.load(made).mode == "audit"
    assert main.main(["policy", "import", "applocker", str(exported)]) == 0
    assert capsys.readouterr().out == made.read_text(encoding="utf-8")


def test_an_import_that_would_lose_a_rule_fails_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exported, made = tmp_path / "applocker.xml", tmp_path / "policy.toml"
    exported.write_text(APPLOCKER.format(path=r"%HOT%\*"), encoding="utf-8")
    assert main.main(["policy", "import", "applocker", str(exported), "-o", str(made)]) == statuses.FAILED
    assert "rule Windows (a61c8b2c-a319-4cd0-9690-d2177cad7b51): the path %HOT%/* begins" in capsys.readouterr().err
    assert not made.exists()
    assert main.main(["policy", "import", "applocker", str(tmp_path / "none")]) == statuses.FAILED


def test_learn_makes_a_policy_of_logs_of_either_kind(
    tmp_path: Path, sysmon: Path, audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tmp_path / "policy.toml"
    assert main.main(["policy", "learn", str(sysmon), str(audit_log), "-o", str(made)]) == 0
    assert capsys.readouterr().out == (
        f'{made}: 3 rules from 3 starts; it only logs until you write mode = "enforce"\n'
        f"{made}: 1 parts of the logs could not be read; the first: {sysmon}, line 3: not an event (it ends in the"
        " middle), so it is left out\n"
    )
    assert "# 1 parts of the logs could not be read" in made.read_text(encoding="utf-8")
    text = made.read_text(encoding="utf-8")
    assert "Suite by Example Ltd" in text and "c:/windows/*" in text and "ab" * 32 in text
    assert "b.exe" not in text  # it was blocked
    assert main.main(["policy", "check", str(made)]) == 0


@pytest.mark.parametrize("audited", [False, True])
@pytest.mark.parametrize("write_ahead", [False, True])
@pytest.mark.parametrize("result", [VerdictResult.ANSWERED, VerdictResult.STALE, VerdictResult.TAMPERED])
def test_learn_allows_no_program_whose_allow_had_no_effect(
    result: VerdictResult, write_ahead: bool, audited: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The gate blocked it before the answer came, or its check before the release did."""
    gate, log = procmon.SimulatedGate(), tmp_path / "audit.jsonl"
    blocked, ran = gate.start("c:/program files/x/a.exe"), gate.start("c:/windows/b.exe")
    allowed = Decision(process=blocked, verdict=BLOCK if audited else ALLOW, by=DecidedBy.RULE, audited=audited)
    with AuditLog(log) as lines:
        if write_ahead:
            lines.write(allowed)
        lines.write(Decision(process=ran, verdict=ALLOW, by=DecidedBy.RULE))
        lines.write(replace(allowed, result=result))
        lines.write(Decision(process=blocked, verdict=BLOCK, by=DecidedBy.GATE_TIMEOUT))
    assert main.main(["policy", "learn", str(log)]) == 0
    learned = capsys.readouterr().out
    assert "Learned from 1 starts" in learned and "c:/windows/*" in learned and "c:/program files" not in learned


def test_learn_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    assert main.main(["policy", "learn", str(empty)]) == statuses.FAILED
    assert "it holds no start of a program that ran" in capsys.readouterr().err


def test_init_writes_a_policy_and_replaces_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "policy.toml"
    assert main.main(["policy", "init", str(made)]) == 0
    assert capsys.readouterr().out.startswith(f"{made}: 6 rules; try procmon-gate guard --policy ")
    assert main.main(["policy", "check", str(made)]) == 0
    capsys.readouterr()
    made.write_text("mine", encoding="utf-8")
    assert main.main(["policy", "init", str(made)]) == statuses.FAILED
    assert "there is a file already; give another name" in capsys.readouterr().err
    assert made.read_text(encoding="utf-8") == "mine"


def test_explain_takes_any_fact(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy.write_text(
        '[[rule]]\noriginal_file_name = "certutil.exe"\ngroup = "S-1-5-32-544"\nsize.at_most = 9\nverdict = "block"\n',
        encoding="utf-8",
    )
    command = ["policy", "explain", str(policy), "c:/a.exe", "--fact", "original_file_name=CertUtil.exe"]
    assert main.main([*command, "--fact", "size=9"]) == 0
    assert "group is not known: add --fact group=" in capsys.readouterr().out
    assert main.main([*command, "--fact", "size=9", "--fact", "group=S-1-1-0", "--fact", "group=S-1-5-32-544"]) == 0
    assert capsys.readouterr().out.startswith("block c:\\a.exe (1000) by rule 1")


@pytest.mark.parametrize(("fact", "message"), [("produkt=x", "the names are "), ("size=big", "size is a number")])
def test_explain_says_what_is_no_fact(
    fact: str, message: str, policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["policy", "explain", str(policy), "c:/a.exe", "--fact", fact]) == statuses.FAILED
    assert message in capsys.readouterr().err


def test_a_log_of_brackets_alone_is_no_log(policy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "deep.json"
    log.write_text("[" * 200_000)
    assert main.main(["policy", "replay", str(policy), str(log)]) == 125
    assert "holds no process creation" in capsys.readouterr().err


def test_check_names_the_file_of_a_folder_and_ends_well_with_warnings_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "policies"
    folder.mkdir()
    (folder / "10-ours.toml").write_text('[[rule]]\nimage = "a.exe"\nverdict = "allow"\n', encoding="utf-8")
    second = folder / "20-theirs.toml"
    second.write_text('[[rule]]\nimage = "notepad"\nverdict = "block"\n', encoding="utf-8")
    assert main.main(["policy", "check", str(folder)]) == 0
    warning, last = capsys.readouterr().out.splitlines()
    assert warning.startswith(f"{second}:2:9: warning: ")
    assert last == f"{folder}: no mistakes, 1 warning"
    second.write_bytes(b"\xff\xfe[\0")
    assert main.main(["policy", "check", str(folder)]) == statuses.FOUND
    assert capsys.readouterr().out == f"{second}:1:1: the file is UTF-16; save the policy as UTF-8\n"
    second.write_text('[[rule]]\nverdict = "deny"\n', encoding="utf-8")
    assert main.main(["policy", "check", str(folder)]) == statuses.FOUND
    assert capsys.readouterr().out.startswith(f"{second}:2:11: there is no verdict")


@pytest.mark.parametrize("damage", ["\0\0\0\0", '{"process": {"pid": 8, "image_na', "[" * 5000])
def test_an_audit_log_with_a_damaged_first_line_is_still_one(
    damage: str, policy: Path, audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    audit_log.write_text(damage + "\n" + audit_log.read_text(encoding="utf-8"), encoding="utf-8")
    assert main.main(["policy", "replay", str(policy), str(audit_log)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("2 decisions: ") and "line 1: not a whole decision" in out


@pytest.mark.parametrize("command", [["policy", "learn"], ["report"]])
def test_no_log_is_overwritten_by_what_is_made_of_it(
    command: list[str], audit_log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = audit_log.read_bytes()
    assert main.main([*command, str(audit_log), "-o", str(audit_log)]) == statuses.FAILED
    assert "it was read, and would be overwritten" in capsys.readouterr().err
    assert audit_log.read_bytes() == before
    older = audit_log.with_name("audit.jsonl.1")
    older.write_bytes(before)
    assert main.main([*command, str(audit_log), "-o", str(older)]) == statuses.FAILED
    assert older.read_bytes() == before
