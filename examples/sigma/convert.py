#!/usr/bin/env python3
"""Convert Sigma rules to a policy of procmon-gate; needs pySigma (pip install pysigma), and no Windows.

$ python convert.py sigma/rules/windows/process_creation -o policy.toml --block critical --ask high
1,143 rules in policy.toml: 12 block, 310 ask, 821 only log what they would block
40 left out:
  proc_creation_win_curl_fileupload.yml: Potential Data Exfiltration Via Curl.EXE: a regular expression; ...
"""

import argparse
import sys
from pathlib import Path

from sigma.backends.procmon import ProcmonBackend
from sigma.collection import SigmaCollection
from sigma.exceptions import SigmaError
from yaml import YAMLError

LEVELS = ["informational", "low", "medium", "high", "critical"]


def options() -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="Convert Sigma rules to a policy of procmon-gate.")
    parser.add_argument("rules", metavar="RULES", nargs="+", type=Path, help="a Sigma rule, or a folder of rules")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the policy to write")
    for verdict in ("block", "ask"):
        text = f"{verdict} by rules of this level and above; without it they only log what they would block"
        parser.add_argument(f"--{verdict}", metavar="LEVEL", choices=LEVELS, default="", help=text)
    return parser.parse_args()


def load(files: list[Path]) -> tuple[SigmaCollection, list[str]]:
    """The rules of the files, and what is wrong with each file that has none."""
    collections, wrong = [], []
    for file in files:
        try:
            collections.append(SigmaCollection.load_ruleset([file], True, resolve_references=False))
        except (SigmaError, YAMLError, OSError, ValueError, AttributeError, TypeError, RecursionError) as failure:
            strange = isinstance(failure, AttributeError | TypeError | RecursionError)
            reason = "it is no Sigma rule" if strange else str(failure)
            wrong.append(f"{file.name}: {' '.join(reason.split())}")
    return SigmaCollection.merge(collections), wrong


def main() -> int:
    """Convert, and print a summary on standard error; 1 if no rule could be converted."""
    chosen = options()
    for path in chosen.rules:
        if not path.exists():
            print(f"convert.py: there is no {path}; give Sigma rules, or folders of them", file=sys.stderr)
            return 1
    folders = ((sorted(path.rglob("*.y*ml")) if path.is_dir() else [path]) for path in chosen.rules)
    files = [file for folder in folders for file in folder if file.suffix in (".yml", ".yaml") or file in chosen.rules]
    backend = ProcmonBackend(collect_errors=True, block=chosen.block, ask=chosen.ask)
    rules, left_out = load(files)
    try:
        policy = backend.convert(rules)
        chosen.output.write_text(policy, encoding="utf-8")
    except (SigmaError, OSError) as failure:
        print(f"convert.py: {' '.join(str(failure).split())}", file=sys.stderr)
        return 1
    counts = backend.counts
    said = f"{counts['block']:,} block, {counts['ask']:,} ask, {counts['audit']:,} only log what they would block"
    print(f"{sum(counts.values()):,} rules in {chosen.output}: {said}", file=sys.stderr)
    for rule, error in backend.errors:
        file = rule.source.path.name if rule.source is not None else "?"
        left_out.append(f"{file}: {rule.title}: {error.args[0] if error.args else error}")
    if left_out:
        print(f"{len(left_out):,} left out:", *left_out, sep="\n  ", file=sys.stderr)
    return 0 if sum(counts.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
