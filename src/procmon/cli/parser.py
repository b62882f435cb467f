"""The command line of procmon-gate: its commands, their options, and what ``--help`` says of them."""

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..records import Verdict

__all__ = ["parse"]

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

HOLD = 60.0
"""Seconds."""

ABOUT = "Hold every new process on Windows until rules, or you, have said yes or no."

MORE = """\
`procmon-gate COMMAND --help` tells more of each. guard and watch need the
driver and an administrator, run needs neither; policy works on every system.

exit status:
  0    done; `run`: the status of the command itself (0xC0000364: blocked)
  1    `policy check` found mistakes, `doctor` something that does not work
  2    the command line was wrong
  125  procmon could not do it; standard error says why, and what to do next
  126  this needs Windows, and here is none
  127  `run`: there is no such command
  130  stopped with Ctrl+C"""

RUN = """\
Run a command, and hold each process of its tree, the command itself included,
before its first instruction: the rules decide, or you where a rule says `ask`.
Without rules each process is shown, and runs. Needs no driver, and no
administrator.

What is shown goes to standard error: standard output belongs to the command."""

RUN_MORE = """\
The first Ctrl+C is the command's own; a second one ends procmon, and the
command goes on ungated. The exit status is that of the command.

examples:
  procmon-gate run -- cmd /c build.cmd
      which tools does this build start?
  procmon-gate run --policy build.toml -- cmd /c build.cmd
      and which of them may not run?"""

GUARD = """\
Hold each new process of the machine before its first instruction: the rules
decide, or you where a rule says `ask`. Without rules you are asked about each
one. Needs the driver and an administrator.

Never held: what Windows cannot do without, what procmon itself starts, and the
console of the terminal in which you are asked."""

GUARD_MORE = """\
Ctrl+C ends it; what is held then gets what --otherwise says.

examples:
  procmon-gate guard
      ask me about each new process
  procmon-gate guard --policy office.toml --audit --log guard.jsonl
      what would these rules do? block nothing yet, and write it down
  procmon-gate guard --policy office.toml
      and now in earnest"""

WATCH = """\
Show each new process of the machine, and let it run. Needs the driver and an
administrator. Ctrl+C ends it."""

REPORT = """\
Make one page of HTML of audit logs: the process tree over time, what was
blocked and by whom, how long processes were held. The page needs no network
and can be sent to others."""

EXPLAIN_MORE = """\
Nothing is looked up on this machine: what you do not tell is not known, and
what is not known matches no rule.

example:
  procmon-gate policy explain office.toml c:/windows/system32/cmd.exe \\
      --parent c:/office/winword.exe --parent c:/windows/explorer.exe"""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of a command line; ``command`` is what to do: ``run``, ``policy check``...

    Raises: SystemExit, with 0 for ``--help`` and 2 for a mistake; either has been printed.
    """
    parser = argparse.ArgumentParser("procmon-gate", description=ABOUT, epilog=MORE, formatter_class=AsWritten)
    parser.add_argument("--version", action="version", version=f"procmon-gate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    run = _add_run(commands)
    guard = _add_guard(commands)
    watch = _add(commands, "watch", "show each new process of the machine, and let it run", WATCH)
    watch.set_defaults(policy=None, audit=False, hold=HOLD, otherwise=Verdict.ALLOW)
    _add_output(watch)
    _add(commands, "ps", "list the running processes")
    _add(commands, "tree", "draw the running processes, each below its parent")
    _add_report(commands)
    _add_policy(commands)
    _add_driver(commands)
    _add(commands, "doctor", "tell what is missing on this machine, and what to do about it")
    options = parser.parse_args(arguments)
    if options.command == "run" and options.argv[:1] == ["--"]:
        del options.argv[0]
    if options.command == "run" and not options.argv:
        run.error("there is no command to run; write one behind --, as in: procmon-gate run -- cmd /c hostname")
    if options.command == "guard" and options.driver_rules and options.policy is None:
        guard.error("--driver-rules is about the rules of a policy; give --policy FILE, too")
    return options


class AsWritten(argparse.RawDescriptionHelpFormatter):
    """Descriptions keep their lines, and options stand beside what is said of them."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def _add(
    commands: "Commands", name: str, what: str, about: str = "", more: str = "", *, of: str = "", usage: str = ""
) -> argparse.ArgumentParser:
    """One command, or one `of` another; its `what` in the list of them, all `about` it in its own help."""
    parser = commands.add_parser(
        name,
        help=what,
        description=about or f"{what[0].upper()}{what[1:]}.",
        epilog=more,
        usage=usage or None,
        formatter_class=AsWritten,
        allow_abbrev=False,  # what is short for one option today may be short for two tomorrow
    )
    parser.set_defaults(command=f"{of} {name}".lstrip())
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line, for other programs")
    return parser


def _add_run(commands: "Commands") -> argparse.ArgumentParser:
    what = "run a command, and hold each process that it starts"
    usage = "procmon-gate run [OPTION ...] -- COMMAND [ARGUMENT ...]"
    run = _add(commands, "run", what, RUN, RUN_MORE, usage=usage)
    run.add_argument("--policy", metavar="FILE", help="the rules that decide; see docs/policy.md")
    _add_deciding(run)
    _add_output(run)
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="what to run, behind --")
    return run


def _add_guard(commands: "Commands") -> argparse.ArgumentParser:
    what = "hold each new process of the machine; rules decide, or you are asked"
    guard = _add(commands, "guard", what, GUARD, GUARD_MORE)
    text = "the rules that decide, read again when the file changes; without it you are asked about each process"
    guard.add_argument("--policy", metavar="FILE", help=text)
    _add_deciding(guard)
    text = "have the driver itself answer what rules with exact paths decide, without waking procmon"
    guard.add_argument("--driver-rules", action="store_true", help=text)
    _add_output(guard)
    return guard


def _add_deciding(parser: argparse.ArgumentParser) -> None:
    text = "only say what would be done, and let everything run"
    parser.add_argument("--audit", action="store_true", help=text)
    text = f"hold a process, and keep a question open, for so long at most; 0 is for ever (default: {HOLD:.0f})"
    parser.add_argument("--hold", metavar="SECONDS", type=_seconds, default=HOLD, help=text)
    text = "allow or block: what they get about whom nobody has decided in that time, or at the end (default: allow)"
    parser.add_argument("--otherwise", metavar="VERDICT", type=_verdict, default=Verdict.ALLOW, help=text)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", action="store_true", help="also show processes that exit, with their status")
    parser.add_argument("--log", metavar="FILE", help="also write each decision to this file; see docs/audit.md")


def _add_report(commands: "Commands") -> None:
    report = _add(commands, "report", "make one page of HTML of what --log has written", REPORT)
    report.add_argument("log", metavar="LOG", nargs="+", type=Path, help="what --log has written")
    text = "where the page goes (default: report.html)"
    report.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("report.html"), help=text)


def _add_policy(commands: "Commands") -> None:
    what = "check a file of rules, or ask what it would decide"
    policy = commands.add_parser("policy", help=what, description=f"{what.capitalize()}. Nothing is held, or started.")
    questions = policy.add_subparsers(title="questions", metavar="QUESTION", required=True)

    def add(name: str, what: str, more: str = "") -> argparse.ArgumentParser:
        parser = _add(questions, name, what, more=more, of="policy")
        parser.add_argument("file", metavar="POLICY", type=Path, help="the file of rules")
        return parser

    add("check", "print every mistake, with its place and what to write instead")
    replay = add("replay", "tell what it would have decided otherwise, of what a --log file tells")
    replay.add_argument("log", metavar="LOG", type=Path, help="what --log has written")
    explain = add("explain", "tell why it would allow or block a process, rule by rule", EXPLAIN_MORE)
    explain.add_argument("image", metavar="IMAGE", help="the path of the executable, c:/tools/a.exe")
    explain.add_argument("--command-line", metavar="TEXT", help="the whole command line")
    text = "the path of the parent's executable; once more for the parent's parent, and so on"
    explain.add_argument("--parent", metavar="IMAGE", action="append", default=[], help=text)
    explain.add_argument("--user", metavar="NAME", help="DOMAIN\\name")
    explain.add_argument("--session", metavar="NUMBER", type=int, help="0 is the session of the services")
    explain.add_argument("--sha256", metavar="HEX", help="the hash of the executable")
    explain.add_argument("--signer", metavar="NAME", help="the name in its signature")


def _add_driver(commands: "Commands") -> None:
    what = "install, start, stop or delete the driver, or show its state"
    driver = commands.add_parser("driver", help=what, description=f"{what.capitalize()}. See docs/windows-setup.md.")
    steps = driver.add_subparsers(title="steps", metavar="STEP", required=True)
    install = _add(steps, "install", "make the driver's service, which runs the file from where it lies", of="driver")
    text = "the driver, procmon.sys; without it the usual places are looked through"
    install.add_argument("file", metavar="FILE", nargs="?", help=text)
    _add(steps, "start", "load the driver", of="driver")
    _add(steps, "stop", "unload the driver; what it holds then runs", of="driver")
    _add(steps, "delete", "remove the driver's service; the file stays", of="driver")
    _add(steps, "status", "tell whether the driver is installed, and whether it runs", of="driver")


def _seconds(text: str) -> float | None:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < 4_000_000:
            return seconds or None
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds; 0 is for ever")


def _verdict(text: str) -> Verdict:
    verdicts = {"allow": Verdict.ALLOW, "block": Verdict.BLOCK}
    if text not in verdicts:
        raise argparse.ArgumentTypeError(f"{text} is neither allow nor block")
    return verdicts[text]
