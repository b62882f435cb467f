"""The command line of procmon-gate: its commands, their options, and the text of ``--help``."""

import argparse
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .. import __version__
from ..records import Verdict
from ..util.pages import page

__all__ = ["parse"]

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    Commands = argparse._SubParsersAction["Parser"]

HOLD_S = 60.0

ABOUT = "Hold every new process on Windows until rules, or you, have decided about it."

MORE = """\
`procmon-gate COMMAND --help` describes a command. guard and watch need the
driver and an administrator, run needs neither; policy works on every system.

exit status:
  0    done; `run`: the status of the command itself (0xC0000364: blocked)
  1    `policy check` found mistakes; `doctor` or `selftest` found a failure
  2    the command line is wrong
  125  procmon failed; standard error says why, and what to do next
  126  this command needs Windows
  127  `run`: there is no such command
  130  Ctrl+C
  141  the reader of the output has gone (`procmon-gate ps | head`)"""

RUN = """\
Run a command, and hold each process of its tree, the command itself included,
before its first instruction: the rules decide, or you where a rule says `ask`.
Without rules each process is shown, and runs. Needs no driver and no
administrator.

The lines go to standard error, because standard output belongs to the command;
`--output FILE` keeps the two apart."""

RUN_MORE = """\
The first Ctrl+C belongs to the command; a second one ends procmon, and the
command goes on ungated. The exit status is that of the command.

examples:
  procmon-gate run --tree -- cmd /c build.cmd
      which tools does this build start, and how long does each run?
  procmon-gate run --policy build.toml -- cmd /c build.cmd
      decide which of them may run"""

GUARD = """\
Hold each new process of the machine before its first instruction: the rules
decide, or you where a rule says `ask`. Without rules you are asked about each
process. Needs the driver and an administrator.

Never held: the critical processes of Windows, what procmon itself starts, and
the console host of the terminal in which you are asked."""

LEGEND = """\
the brackets at the end of a line show who decided:
  [rule NAME]      a rule of the policy
  [default]        no rule matched: the default of the policy
  [you]            you answered the question
  [error]          the rules failed: --fail decided
  [deadline]       the rules took too long: --fail decided
  [no terminal to ask]
                   a rule says `ask`, and there is no terminal: --fail decided
  [gate timeout]   --hold passed without an answer: --fail decided
  [gate rule]      a rule in the driver (--driver-rules)
  [stop]           it was held when procmon ended: --fail decided
  [disconnect]     it was held when the controller went away
  [exempt]         never held: critical, protected, or started by procmon; or
                   spared by the policy, or by the file allow-all
  [limit]          the driver's process table was full
  [tamper]         another process put a thread into it while it was held, or
                   changed its memory (--check-before-release): blocked, unless
                   --fail says otherwise
  [pico]           a process of WSL 1, which cannot be held
Processes that started before procmon was connected ([no controller] in a log)
are counted in the summary, and have no line."""

GUARD_MORE = f"""\
Ctrl+C ends it; held processes then get the verdict of --fail.

{LEGEND}

examples:
  procmon-gate guard
      ask me about each new process
  procmon-gate guard --policy office.toml --audit --log guard.jsonl
      what would these rules do? block nothing yet, and write it down
  procmon-gate guard --policy base.toml --policy rules.d
      enforce them: a file, then every *.toml of a folder"""

WATCH = """\
Show each new process of the machine, and let it run. Needs the driver and an
administrator. Ctrl+C ends it."""

REPORT = """\
Make one page of HTML from audit logs: the process tree over time, what was
blocked and why, how long processes were held. The page needs no network
and can be sent to others."""

SELFTEST = """\
Start programs that every Windows has, hold, allow and block them, and check
what they did. Prints a table, and writes a JSON file for bug reports, without
names of users or computers."""

EXPLAIN_MORE = """\
Nothing is looked up on this machine: a fact without its option is not known,
and a fact that is not known matches no rule.

example:
  procmon-gate policy explain office.toml c:/windows/system32/cmd.exe \\
      --parent c:/office/winword.exe --parent c:/windows/explorer.exe"""


REPLAY_MORE = """\
A log is an audit log, written by --log, or a log of another tool: event 1 of
Sysmon or event 4688 of the Security log, as JSON or JSON lines of Winlogbeat
or evtx_dump, or as event XML. Nothing is looked up on this machine.

example:
  procmon-gate policy replay office.toml sysmon.jsonl
      what would these rules have blocked last month?"""

LEARN = """\
Write a policy that allows the programs that ran, according to logs: by signer
and product where a program is signed, by folder where only administrators can
write, otherwise by hash. The policy only logs what it would block until you
write mode = "enforce" in it."""

APPLOCKER = """\
Write a policy from AppLocker's rules for executables: deny rules first, then
allow rules; a program that no rule allows is blocked. A rule that a policy
cannot express is an error that names the rule."""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line; ``command`` is ``run``, ``policy check``...

    Raises: SystemExit, with 0 for ``--help`` and 2 for a mistake; the help or the mistake has been printed.
    """
    parser = Parser("procmon-gate", description=ABOUT, epilog=MORE, formatter_class=AsWritten)
    parser.set_defaults(parser=parser, command="")
    parser.add_argument("--version", action="version", version=f"procmon-gate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_run(commands)
    _add_guard(commands)
    watch = _add(commands, "watch", "show each new process of the machine, and let it run", WATCH, LEGEND)
    watch.set_defaults(policy=[], answers=None, audit=False, hold=HOLD_S, fail=Verdict.ALLOW, tree=False, summary=False)
    _add_check(watch, "and report it where it does not")
    _add_output(watch)
    _add(commands, "ps", "list the running processes")
    _add(commands, "tree", "draw the running processes, each below its parent")
    _add_report(commands)
    _add_policy(commands)
    _add_driver(commands)
    _add_service(commands)
    _add_selftest(commands)
    _add(commands, "doctor", "show what is missing on this machine, and what to do about it")
    options, unknown = parser.parse_known_args(arguments)
    mine: Parser = options.parser
    if unknown:
        mine.error(f"unrecognized arguments: {' '.join(unknown)}")
    if not options.command:  # no command, or `policy` or `driver` alone
        mine.print_help()
        mine.exit()
    if options.command == "run":
        _check_run(options, mine)
    if options.command == "guard" and options.driver_rules and not options.policy:
        mine.error("--driver-rules needs the rules of a policy; give --policy FILE, too")
    if options.command == "guard" and options.driver_rules and options.answers:
        mine.error("the driver does not know the answers, which come before the rules: leave out --driver-rules")
    return options


class Parser(argparse.ArgumentParser):
    """Suggests a similar command or option where the given one does not exist."""

    def error(self, message: str) -> NoReturn:
        if wrong := re.search(r"invalid choice: '([^']*)'", message):
            message = f"there is no {self._title()} {wrong[1]}{_meant(wrong[1], self._names())}"
        elif wrong := re.fullmatch(r"unrecognized arguments: (-\S*?)(=.*)?( .*)?", message):
            options = [option for action in self._actions for option in action.option_strings]
            message = f"there is no option {wrong[1]}{_meant(wrong[1], options)}"
        super().error(message)

    def print_help(self, file: "SupportsWrite[str] | None" = None) -> None:
        """Print the help. Raises where that fails; argparse would ignore the failure."""
        out = file or sys.stdout
        if out is not None:  # pythonw.exe has no standard output
            out.write(self.format_help())

    def _commands(self) -> "Commands | None":
        return next((action for action in self._actions if isinstance(action, argparse._SubParsersAction)), None)

    def _names(self) -> list[str]:
        commands = self._commands()
        return list(commands.choices) if commands is not None else []

    def _title(self) -> str:
        commands = self._commands()
        return str(commands.metavar).lower() if commands is not None else "choice"


def _meant(wrong: str, names: Sequence[str]) -> str:
    close = get_close_matches(wrong, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; there are {', '.join(names)}"


class AsWritten(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of descriptions, and puts the text of an option beside it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)


def _sentence(what: str) -> str:
    return f"{what[0].upper()}{what[1:]}."


def _add(
    commands: "Commands", name: str, what: str, about: str = "", more: str = "", *, of: str = "", usage: str = ""
) -> "Parser":
    """Add a command, or a subcommand `of` one: `what` is for the list of commands, `about` and `more` for its help."""
    parser = commands.add_parser(
        name,
        help=what,
        description=about or _sentence(what),
        epilog=more,
        usage=usage or None,
        formatter_class=AsWritten,
        allow_abbrev=False,  # an abbreviation that is unique today may be ambiguous tomorrow
    )
    parser.set_defaults(command=f"{of} {name}".lstrip(), parser=parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one object a line, for other programs")
    return parser


def _add_group(commands: "Commands", name: str, what: str, about: str, metavar: str) -> "Commands":
    """Add a command that has commands of its own."""
    group = commands.add_parser(name, help=what, description=about, formatter_class=AsWritten)
    group.set_defaults(parser=group)
    return group.add_subparsers(title=f"{metavar.lower()}s", metavar=metavar)


def _add_run(commands: "Commands") -> None:
    what = "run a command, and hold each process that it starts"
    usage = "procmon-gate run [OPTION ...] -- COMMAND [ARGUMENT ...]"
    run = _add(commands, "run", what, RUN, f"{LEGEND}\n\n{RUN_MORE}", usage=usage)
    _add_deciding(run, "the rules that decide; may be given more than once; a folder is every *.toml in it")
    _add_answers(run)
    _add_output(run)
    text = "at the end draw the tree: verdicts, exit statuses, durations; in place of a line for each process"
    run.add_argument("--tree", action="store_true", help=text)
    text = "at the end print a line for each program: starts, blocked, time; in place of a line for each process"
    run.add_argument("--summary", action="store_true", help=text)
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND ...", help="the command, after --")


def _check_run(options: argparse.Namespace, parser: "Parser") -> None:
    if options.argv[:1] == ["--"]:
        del options.argv[0]
    if not options.argv:
        parser.error("there is no command to run; write one after --, as in: procmon-gate run -- cmd /c hostname")
    if options.json and (options.tree or options.summary):
        parser.error("--tree and --summary are for people; with --json, `decision` and `exit` lines have all of it")


def _add_guard(commands: "Commands") -> None:
    what = "hold each new process of the machine; rules decide, or you are asked"
    guard = _add(commands, "guard", what, GUARD, GUARD_MORE)
    text = (
        "the rules that decide; may be given more than once; a folder is every *.toml in it. Read again when a file"
        " changes. Without it you are asked about each process"
    )
    _add_deciding(guard, text)
    _add_answers(guard)
    text = "let the driver itself decide by the rules with exact paths, without waking procmon"
    guard.add_argument("--driver-rules", action="store_true", help=text)
    text = "also report blocks and failures to the event log of Windows, source procmon-gate"
    guard.add_argument("--event-log", action="store_true", help=text)
    _add_output(guard)
    guard.set_defaults(tree=False, summary=False)


def _add_deciding(parser: "Parser", policy: str) -> None:
    parser.add_argument("--policy", metavar="FILE", type=Path, action="append", default=[], help=policy)
    text = "only show what would be done, and let everything run"
    parser.add_argument("--audit", action="store_true", help=text)
    text = f"the longest time that a process is held or a question stays open; 0 is no limit (default: {HOLD_S:.0f})"
    parser.add_argument("--hold", metavar="SECONDS", type=_seconds, default=HOLD_S, help=text)
    text = (
        "allow or block: the verdict for a process that was not decided in time, whose rules failed, or that is held"
        " at the end (default: allow)"
    )
    parser.add_argument("--fail", metavar="VERDICT", type=_verdict, help=text)
    _add_check(parser, "and block it where it does not, unless --fail allow")


def _add_check(parser: "Parser", otherwise: str) -> None:
    text = f"check before a process runs that its memory matches its file, {otherwise}"
    parser.add_argument("--check-before-release", action="store_true", help=text)


def _add_answers(parser: "Parser") -> None:
    text = "the file of kept answers: rules that come before those of --policy; created if it is missing"
    parser.add_argument("--answers", metavar="FILE", type=Path, help=text)


def _add_output(parser: "Parser") -> None:
    parser.add_argument("--exits", action="store_true", help="also show processes that exit, with their status")
    text = "write the lines to this file, in place of the terminal"
    parser.add_argument("--output", metavar="FILE", type=Path, help=text)
    text = "also write each decision and each exit to this audit log, which `policy replay` reads"
    parser.add_argument("--log", metavar="FILE", type=Path, help=text)
    _add_log_format(parser)


def _add_log_format(parser: "Parser") -> None:
    text = "json, or ecs: the Elastic Common Schema, which `policy replay` and `report` do not read (default: json)"
    parser.add_argument("--log-format", metavar="FORMAT", choices=["json", "ecs"], default="json", help=text)


def _add_report(commands: "Commands") -> None:
    report = _add(commands, "report", "make one page of HTML from audit logs", REPORT)
    report.add_argument("log", metavar="LOG", nargs="+", type=Path, help="a file that --log has written")
    text = "where the page goes (default: report.html)"
    report.add_argument("-o", "--output", metavar="FILE", type=Path, default=Path("report.html"), help=text)


def _add_selftest(commands: "Commands") -> None:
    what = "check on this machine what procmon guarantees, in less than a minute"
    selftest = _add(commands, "selftest", what, SELFTEST)
    text = "also over the driver, which is installed and started where it is not; needs an administrator"
    selftest.add_argument("--driver", action="store_true", help=text)
    text = "where the JSON goes (default: procmon-selftest.json)"
    selftest.add_argument("--output", metavar="FILE", type=Path, default=Path("procmon-selftest.json"), help=text)


def _add_policy(commands: "Commands") -> None:
    what = "check a file of rules, or ask what it would decide"
    questions = _add_group(commands, "policy", what, f"{_sentence(what)} Nothing is held or started.", "QUESTION")

    def add(name: str, what: str, more: str = "") -> "Parser":
        parser = _add(questions, name, what, more=more, of="policy")
        parser.add_argument("file", metavar="POLICY", type=Path, help="the file of rules")
        return parser

    add("check", "print every mistake, with its place and what to write instead")
    replay = add("replay", "show what it would have decided about the processes of logs", REPLAY_MORE)
    replay.add_argument("log", metavar="LOG", nargs="+", type=Path, help="an audit log, or a log of another tool")
    explain = add("explain", "show why it would allow or block a process, rule by rule", EXPLAIN_MORE)
    explain.add_argument("image", metavar="IMAGE", help="the path of the executable, c:/tools/a.exe")
    explain.add_argument("--command-line", metavar="TEXT", help="the whole command line")
    text = "the path of the parent's executable; once more for the parent's parent, and so on"
    explain.add_argument("--parent", metavar="IMAGE", action="append", default=[], help=text)
    explain.add_argument("--user", metavar="NAME", help="DOMAIN\\name")
    explain.add_argument("--session", metavar="NUMBER", type=int, help="0 is the session of the services")
    explain.add_argument("--sha256", metavar="HEX", help="the hash of the executable")
    explain.add_argument("--signer", metavar="NAME", help="the name in its signature")
    text = "any other fact, original_file_name=CertUtil.exe; may be given more than once"
    explain.add_argument("--fact", metavar="NAME=VALUE", action="append", default=[], help=text)
    output = "where the policy goes (default: standard output)"
    learn = _add(questions, "learn", "write a policy that allows what ran, by logs", LEARN, of="policy")
    learn.add_argument("log", metavar="LOG", nargs="+", type=Path, help="an audit log, or a log of another tool")
    learn.add_argument("-o", "--output", metavar="FILE", type=Path, help=output)
    init = _add(questions, "init", "write a first policy, which is safe to enforce", of="policy")
    text = "where it goes; an existing file is not changed (default: policy.toml)"
    init.add_argument("file", metavar="FILE", nargs="?", type=Path, default=Path("policy.toml"), help=text)
    what = "make a policy from another tool's rules"
    tools = _add_group(questions, "import", what, _sentence(what), "TOOL")
    applocker = _add(tools, "applocker", "AppLocker's rules for executables", APPLOCKER, of="policy import")
    text = "what Get-AppLockerPolicy -Effective -Xml prints"
    applocker.add_argument("file", metavar="FILE.xml", type=Path, help=text)
    applocker.add_argument("-o", "--output", metavar="FILE", type=Path, help=output)


def _add_driver(commands: "Commands") -> None:
    what = "install, start, stop, delete or sign the driver, or show its state"
    steps = _add_group(commands, "driver", what, _sentence(what), "STEP")
    install = _add(steps, "install", "make the driver's service, which runs a copy in System32\\drivers", of="driver")
    text = "the driver, procmon.sys; without it the one that came with this package is taken"
    install.add_argument("file", metavar="FILE", nargs="?", help=text)
    text = "run the file from where it is, if only administrators can change it there"
    install.add_argument("--no-copy", action="store_true", help=text)
    _add(steps, "start", "load the driver", of="driver")
    _add(steps, "stop", "unload the driver; held processes get the verdict of --fail", of="driver")
    _add(steps, "delete", "remove the driver's service and its copy of the file", of="driver")
    _add(steps, "status", "show whether the driver is installed, and whether it runs", of="driver")
    what = "sign the driver for this machine in test mode, by PowerShell lines that are shown first"
    about = "Sign the driver for this machine in test mode, by\nPowerShell lines that are shown first."
    sign = _add(steps, "sign", what, about, of="driver")
    sign.add_argument(
        "file", metavar="FILE", nargs="?", help="the driver; without it the one that came with this package"
    )
    sign.add_argument("--yes", action="store_true", help="run the lines without asking")


def _add_service(commands: "Commands") -> None:
    what = "let guard run as a Windows service"
    steps = _add_group(commands, "service", what, f"{_sentence(what)}\n{page('service.md')} describes it.", "STEP")
    install = _add(steps, "install", "make the service, which decides by a policy from the next start on", of="service")
    run = _add(steps, "run", "what the service runs; Windows starts it", of="service")
    for parser in (install, run):
        _add_deciding(parser, "the rules that decide; may be given more than once; a folder is every *.toml in it")
        text = "the audit log (default: guard.jsonl in the folder procmon-gate of %%ProgramData%%)"
        parser.add_argument("--log", metavar="FILE", type=Path, help=text)
        _add_log_format(parser)
        parser.set_defaults(
            fail=None,
            answers=None,
            event_log=False,
            exits=False,
            output=None,
            driver_rules=False,
            tree=False,
            summary=False,
        )
    _add(steps, "start", "start the service, and the driver before it", of="service")
    _add(steps, "stop", "stop the service; held processes get the verdict of --fail", of="service")
    _add(steps, "delete", "stop and remove the service", of="service")
    _add(steps, "status", "show whether the service is installed, and whether it runs", of="service")


def _seconds(text: str) -> float | None:
    with suppress(ValueError):
        if 0 <= (seconds := float(text)) < 4_000_000:
            return seconds or None
    raise argparse.ArgumentTypeError(f"{text} is not a number of seconds; 0 is no limit")


def _verdict(text: str) -> Verdict:
    verdicts = {"allow": Verdict.ALLOW, "block": Verdict.BLOCK}
    if text not in verdicts:
        raise argparse.ArgumentTypeError(f"{text} is neither allow nor block")
    return verdicts[text]
