"""Mistakes in the text of a policy: their places, and the text to write instead."""

import re
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import problems, rule
from procmon import Policy, PolicyError
from procmon.policy.toml_mistakes import new_escape_at


class TestMistakes:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("mode = 'audits'", 'line 1, column 8: there is no mode "audits"; write "audit"'),
            ("title: x\nlogsource:", "this is a Sigma rule, not a policy; convert it: `sigma convert -t procmon`"),
            ("[[rule]]\nverdict = 'alert'", 'write verdict = "block" and audit = true to log only'),
            ("\nmode = 3", 'line 2, column 8: there is no mode 3; write "enforce" or "audit"'),
            ("default = 'deny'", 'line 1, column 11: there is no default verdict "deny"; write "block"'),
            ("defaults = 'ask'", 'line 1, column 1: a policy has no key "defaults"; write default'),
            ("rules = []", 'line 1, column 1: a policy has no key "rules"; write [[rule]]'),
            ("x = 1", 'line 1, column 1: a policy has no key "x"; a policy has mode, default and rule'),
            ("image = 'a'", "write [[rule]] on a line above it: it belongs to a rule"),
            (
                "[rule]\nverdict = 'ask'",
                "line 1, column 1: rule is not a list of tables; write [[rule]], with two brackets",
            ),
            (
                rule("image = 'a.exe'"),
                'line 1, column 1: rule 1 has no verdict; add verdict = "allow", "block" or "ask"',
            ),
            (rule("verdict = true"), 'line 2, column 11: there is no verdict True; write "allow", "block" or "ask"'),
            (rule("verdict = 'prompt'"), 'there is no verdict "prompt"; write "ask"'),
            (rule("verdict = 'ask'\nexe = 'a'"), 'line 3, column 1: a rule has no key "exe"; write image'),
            (rule("verdict = 'ask'\nimages = 'a'"), 'a rule has no key "images"; write image'),
            (rule("verdict = 'ask'\ncommand-line = 'a'"), 'a rule has no key "command-line"; write command_line'),
            (
                rule("verdict = 'ask'\nzzz = 'a'"),
                "a rule has name, image, flags, parent, ancestor, creator",
            ),
            (
                rule("verdict = 'ask'\nname = 7"),
                'line 3, column 8: a name is a text of some letters; write name = "..."',
            ),
            (rule("verdict = 'ask'\naudit = 'yes'"), "line 3, column 9: audit is true or false; write audit = true"),
            (rule("verdict = 'ask'\naudit = 'no'"), "audit is true or false; write audit = false"),
            (rule("verdict = 'ask'\nlog = 1"), "log is true or false; write log = true"),
            (rule("verdict = 'ask'\nsigner = {known = 'false'}"), "known is true or false; write known = false"),
            (rule("verdict = 'ask'\nimage = []"), "line 3, column 9: an empty list of image matches nothing"),
            (rule("verdict = 'ask'\nimage = ['a',\n  5]"), "line 4, column 3: image is a text, not 5; write image ="),
            (rule("verdict = 'ask'\nimage = ''"), "an empty image matches nothing"),
            (rule("verdict = 'ask'\nsession = 'console'"), 'a session is a number, not "console"; write session = 1'),
            (rule("verdict = 'ask'\nsession = true"), "a session is a number, not True"),
            (rule("verdict = 'ask'\nsession = '>0'"), "write session = {at_least = 1}, say"),
            (rule("verdict = 'ask'\nsize = '< 5 MB'"), "write size = {at_most = 1000000}, say"),
            (rule("verdict = 'ask'\nsigner = false"), "signer is a text, not False; write signer = {known = false}"),
            (rule("verdict = 'ask'\nimage = [{contains = 'a'}]"), "not a table in a list; write any = [{image = ...}"),
            (rule("verdict = 'ask'\ngroup = 'Administrators'"), 'a group is a SID, not "Administrators"; write "S-1-'),
            (
                rule("verdict = 'ask'\nlogon_id = '999'"),
                'a logon_id is hexadecimal without leading zeros, not "999"; write "0x3e7", say',
            ),
            (rule("verdict = 'ask'\nsha256 = 'abc'"), "a SHA-256 is 64 hexadecimal digits, and this is 3 characters"),
            (
                rule('verdict = "ask"\nimage = "c:\\temp\\new.exe"'),
                'write slashes, "c:/temp/new.exe", or single quotes',
            ),
            (
                rule('verdict = "ask"\nimage = "c:\\Windows"'),
                "write paths with slashes, c:/windows, or in single quotes",
            ),
            (rule("verdict = 'ask'\nimage = '%TEMP%/a.exe'"), 'variables such as "%TEMP%/a.exe" are not replaced'),
            (rule("verdict = 'ask'\nimage = 'c:/temp/'"), 'no image ends in a slash; write "c:/temp/**"'),
            (
                rule("verdict = 'ask'\nparent = 'office/a.exe'"),
                '"office/a.exe" names no drive; write "**/office/a.exe"',
            ),
            (rule("verdict = 'ask'\nimage = '/temp/a.exe'"), '"/temp/a.exe" names no drive; write "**/temp/a.exe"'),
            (rule("verdict = 'ask'\nsession = '0'"), 'a session is a number, not "0"; write session = 0'),
            (rule("verdict = 'ask'\nimage = ' '"), "an empty image matches nothing"),
            (rule("verdict = 'ask'\nimage = '~/a.exe'"), 'variables such as "~/a.exe" are not replaced'),
            (rule("verdict = 'ask'\nparent = '$env:TEMP/*'"), 'variables such as "$env:TEMP/*" are not replaced'),
            (rule("verdict = 'ask'\nuser = '%USERNAME%'"), 'variables such as "%USERNAME%" are not replaced'),
            (
                rule("verdict = 'ask'\nimage = 'a.exe|b.exe'"),
                'no image has a | in it; write a list: ["a.exe",',
            ),
            (rule("verdict = 'ask'\nimage = '\"c:/a.exe\"'"), 'no image has a " in it; leave it out'),
            (
                rule("verdict = 'ask'\nimage = 'c:\\\\tools\\\\a.exe'"),
                'in single quotes a backslash stands once; write "c:/tools/a.exe"',
            ),
            (rule("verdict = 'ask'\nimage = '\\\\\\\\nas\\\\x\\\\a.exe'"), 'write "//nas/x/a.exe"'),
            (rule("verdict = 'ask'\nuser = 'DESKTOP\\\\ann'"), "two slashes follow each other; in single quotes"),
            (rule("verdict = 'ask'\nuser = './ann'"), 'no account is called "./ann"; write "ann", or the machine'),
            (rule("verdict = 'ask'\nuser = 'DESKTOP/'"), 'no user ends in a slash; write "DESKTOP/**"'),
            (rule("verdict = 'ask'\nimage = '\\\\?\\C:\\a.exe'"), 'no image begins with "//?"; write "C:/a.exe"'),
            (rule("verdict = 'ask'\nimage = '//?/UNC/nas/a.exe'"), 'no image begins with "//?"; write "//nas/a.exe"'),
            (rule("verdict = 'ask'\nimage = '/??/c:/a.exe'"), 'no image begins with "/??"; write "c:/a.exe"'),
            (rule("verdict = 'ask'\nimage = 'c:/x/../a.exe'"), "no image has . or .. in its path"),
            (rule("verdict = 'ask'\nimage = './a.exe'"), "no image has . or .. in its path"),
            (rule("verdict = 'ask'\nimage = 'c:a.exe'"), '"c:a.exe" names no folder; write "c:/a.exe"'),
            (rule("verdict = 'ask'\nimage = 'c:**'"), '"c:**" names no folder; write "c:/**"'),
            (rule('verdict = "ask"\ncommand_line = "*c:\\temp*"'), "changes the letter after it; write single quotes"),
            (rule("verdict = ask"), "line 2, column 11: invalid value; put texts in quotes"),
            (rule("audit = yes"), "line 2, column 9: invalid value; write audit = true"),
            (rule("image = “a.exe”"), "line 2, column 9: invalid value; write straight quotes"),
            (rule("image = 'a.exe\nverdict = 'ask'"), "end the text with its quote"),
            (rule("image = ['a', 'b'\nverdict = 'ask'"), "line 3, column 1: unclosed array; write commas between"),
            (rule("image = ['a',\nverdict = 'ask'"), "line 3, column 1: invalid value; close the list above this"),
            (rule("image: 'a'"), "line 2, column 6: expected '=' after a key in a key/value pair; a line is key = "),
            ("[rule]\nimage = 'a'\n[rule]\nimage = 'b'", "line 3, column 6: cannot declare ('rule',) twice; write [["),
            ("[[rule]\nimage = 'a'", "column 7: expected ']]' at the end of an array declaration; write [[rule]]"),
            ("mode = " + "9" * 5000, "exceeds the limit (4300 digits) for integer string conversion"),
            ("mode = 'audit'\na" + ".a" * 100, "line 2, column 1: this is no key of a policy; a line is key = value"),
            ("mode = 'audit'\n  a" + " . a" * 100, "line 2, column 3: this is no key of a policy"),
            ("mode = 'audit'\n\"a\"" + ".'a'" * 100 + " = 1", "line 2, column 1: this is no key of a policy"),
            ("mode = 'a" + ".a" * 100, "; end the text with its quote"),
            ("[a" + ".a" * 100 + "]", "line 1, column 2: this is no key of a policy"),
            ("mode = {x = [{a" + ".a" * 100 + " = 1}]}", "line 1, column 15: this is no key of a policy"),
            (rule("mode = 'audit'"), 'line 2, column 1: a rule has no key "mode"; write it above the first [[rule]]'),
            (
                rule("not_image = 'a'"),
                'a rule has no key "not_image"; write image = {not = {glob = ...}}, or unless',
            ),
            (
                rule("image.path = 'a'"),
                'line 2, column 1: image has no operator "path"; image has glob, equals,',
            ),
            (rule("verdict = 'ask'\nimage = '''\nc:/a.exe\n'''"), 'ends with a line\'s end; write "c:/a.exe"'),
            (rule("verdict = 'ask'\nimage = 'c:/x/**/'"), 'no image ends in a slash; write "c:/x/**" for all'),
            (rule("verdict = 'ask'\nimage = 'c:/windows/Sysnative/a.exe'"), "no image has sysnative in it"),
            (rule(f"verdict = 'ask'\nsha256 = 'sha256:{'AB' * 32}'"), f'write "{"ab" * 32}"'),
            (
                rule("verdict = 'ask'\nimage = 'a'\nimage = 'b'"),
                'several values are a list: image = ["a.exe", "b.exe"]',
            ),
            (
                rule("name = 'a'\nverdict = 'ask'") + rule("image = 'b'\nname = 'a'\nverdict = 'ask'"),
                'line 6, column 8: rule 1 is named "a" too; give each rule a name of its own',
            ),
            (
                rule("name = '2'\nverdict = 'ask'") + rule("image = 'a'\nverdict = 'ask'"),
                'line 4, column 1: rule 1 is named "2" too; give each rule a name of its own',
            ),
            (rule("name = 'default'\nverdict = 'ask'"), 'line 2, column 8: in decisions and counts "default" is where'),
        ],
    )
    def test_each_is_named_with_its_place_and_what_to_write(self, text: str, said: str) -> None:
        assert any(said in problem for problem in problems(text)), problems(text)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("image = 'notepad'", 'line 2, column 9: "notepad" would have to be the whole name; write "notepad.exe"'),
            (
                "parent = ['a.exe', 'c:/x/b']",
                'line 2, column 20: "b" would have to be the whole name; write "c:/x/b.exe", or "c:/x/b/**" for a fold',
            ),
            ("image = '!a.exe'", 'in "!a.exe" only * and ? stand for others; write a list, or image = {not = {...}}'),
            ("image = '{a,b}.exe'", 'in "{a,b}.exe" only * and ? stand for others'),
            ("image = '/Device/HarddiskVolume2/a.exe'", "a volume that has a drive letter is named by it alone"),
            ("image = 'a.exe, b.exe'", '"a.exe, b.exe" is one value; write a list: ["a.exe", "b.exe"]'),
            ("image = 'c:/x/a.exe '", 'Windows drops dots and spaces around "a.exe"; write "c:/x/a.exe"'),
            ("image = 'a.exe.'", 'Windows drops dots and spaces around "a.exe"; write "a.exe"'),
            ("command_line = '-enc'", '"-enc" would have to be the whole command line; write "*-enc*" for a part'),
            ("command_line = '/c del'", '"/c del" would have to be the whole command line; write "*/c del*"'),
            ("command_line = 'mimikatz'", 'write "*mimikatz*" for a part'),
            ("signer = 'CN=Example Ltd, O=Example'", 'a signer is a name alone; write "Example Ltd"'),
            ("user = 'ann@example.com'", "users are named DOMAIN\\name; write what whoami prints"),
            ("user = {equals = 'ann'}", 'equals sees the domain, too; write user = "ann" for any domain'),
            ("image = {equals = 'cmd.exe'}", 'equals sees the whole path; write image = "cmd.exe"'),
            ("parent = {not = {starts_with = 'cmd'}}", 'starts_with sees the whole path; write parent = "cmd*"'),
            ("group = {equals = 'Users'}", 'a group is a SID, not "Users"'),
            ("image = '.scr'", '".scr" would have to be the whole name; write "*.scr"'),
            ("image = '**/temp/.scr'", 'write "**/temp/*.scr"'),
            ("command_line = {contains = '*-enc*'}", 'in contains * and ? are themselves; write "-enc", or glob'),
            ("command_line = '.*-enc.*'", 'in ".*-enc.*" only * and ? stand for others; write * for .*, and no ^'),
            ("product = '^Example'", 'in "^Example" only * and ? stand for others'),
        ],
    )
    def test_doubtful_values_are_warned_of(self, text: str, said: str) -> None:
        [problem] = Policy.check(rule(text + "\nverdict = 'ask'"))
        assert said in str(problem)
        assert not problem.fatal
        Policy.parse(rule(text + "\nverdict = 'ask'"))

    @pytest.mark.parametrize(
        ("condition", "said"),
        [
            ("image = 'c:/a/x.exe;c:/b/y.exe'", 'write a list: ["c:/a/x.exe", "c:/b/y.exe"]'),
            ("parent = 'a.exe or b.exe'", 'write a list: ["a.exe", "b.exe"]'),
            ("image = 'a.exe, b.exe, c.exe'", 'write a list: ["a.exe", "b.exe", "c.exe"]'),
            ("ancestor = '*a.exe; *b.exe'", 'write a list: ["*a.exe", "*b.exe"]'),
            ("creator = {ends_with = '/a.exe;/b.exe'}", 'write a list: ["/a.exe", "/b.exe"]'),
            ("command_line = '*-enc*;*-e *'", 'write a list: ["*-enc*", "*-e *"]'),
            ("parent_command_line = '*-enc* or *-e*'", 'write a list: ["*-enc*", "*-e*"]'),
            ("command_line = '*-enc*|*-e *'", 'write a list: ["*-enc*", "*-e *"]'),
            (
                "user = 'alice;bob'",
                'no user has these signs in it: they are several in one text; write a list: ["alice"',
            ),
            ("user = 'alice,bob'", 'write a list: ["alice", "bob"]'),
            ("parent_user = {equals = 'alice|bob'}", 'write a list: ["alice", "bob"]'),
            ("signer = 'Example Ltd; Other Ltd'", 'write a list: ["Example Ltd", "Other Ltd"]'),
            ("signer = 'Example Ltd, Other Ltd'", 'write a list: ["Example Ltd", "Other Ltd"]'),
            ("company = 'Example|Other'", 'write a list: ["Example", "Other"]'),
            ("product = 'One or Two'", 'write a list: ["One", "Two"]'),
            ("publisher = 'O=Example, C=DE;O=Other, C=DE'", 'write a list: ["O=Example, C=DE", "O=Other, C=DE"]'),
            ("original_file_name = 'a.exe;b.exe'", 'write a list: ["a.exe", "b.exe"]'),
            ("current_directory = 'c:/a;d:/b'", 'write a list: ["c:/a", "d:/b"]'),
            ("session = '1;2'", 'a session is a number, not "1;2"; write session = [1, 2]'),
            ("integrity = 'high;system'", 'write a list: ["high", "system"]'),
            ("origin = 'internet, restricted'", 'write a list: ["internet", "restricted"]'),
            ("flags = 'exempt;seen'", 'write a list: ["exempt", "seen"]'),
            (f"sha256 = '{'ab' * 32};{'cd' * 32}'", f'write a list: ["{"ab" * 32}", "{"cd" * 32}"]'),
            (f"md5 = '{'ab' * 16},{'cd' * 16}'", f'write a list: ["{"ab" * 16}", "{"cd" * 16}"]'),
        ],
    )
    def test_several_values_in_one_text_are_named_whatever_the_fact_and_the_separator(
        self, condition: str, said: str
    ) -> None:
        assert any(said in problem for problem in problems(rule(condition + "\nverdict = 'ask'"))), problems(
            rule(condition)
        )

    @pytest.mark.parametrize(
        ("key", "said"),
        [
            ("image_not", "write image = {not = {glob = ...}}, or unless = [{image = ...}]"),
            ("not_parent", "write parent = {not = {glob = ...}}"),
            ("exclude_user", "write user = {not = {glob = ...}}"),
            ("issuer", "a rule has name, image"),
            ("sha512", "a rule has name, image"),
            ("ppid", "a rule has name, image"),
            ("comandline", "write command_line"),
            ("parent_cmdline", "write parent_command_line"),
            ("original_filename", "write original_file_name"),
            ("ParentImage", "write parent"),
            ("NewProcessName", "write image"),
            ("enabled", "put # before each line of the rule to switch it off"),
            ("priority", "the first rule that matches decides: move it"),
            ("cwd", "write current_directory"),
            ("contains", "it belongs to a fact: write command_line = {contains = ...}"),
            ("verdct", "write verdict"),
            ("filter", "write unless"),
            ("Hashes", "write md5, sha1, sha256 or imphash"),
            ("condition", "every key of a rule must hold; any, all and unless combine tables"),
        ],
    )
    def test_only_near_misspellings_and_synonyms_are_suggested(self, key: str, said: str) -> None:
        [problem] = problems(rule(f"verdict = 'ask'\n{key} = 'a'"))
        assert f'a rule has no key "{key}"; {said}' in problem

    @pytest.mark.parametrize("digits", ["1" + "0" * 21, "-9223372036854775809", "0x" + "f" * 4000, "0b" + "1" * 64])
    @pytest.mark.parametrize(
        "key",
        [
            "verdict", "name", "audit", "until", "tags", "image", "session", "session.at_least", "size", "size.at_most",
            "integrity", "integrity.at_least", "sha256", "logon_id", "any", "case_sensitive", "x",
        ],
    )  # fmt: skip
    def test_a_number_of_more_than_64_bits_is_a_mistake_everywhere(self, key: str, digits: str) -> None:
        """Python reads it, and may refuse to write it in a message."""
        [problem] = Policy.check(f"[[rule]]\n{key} = [1, {digits}]")
        assert (problem.line, problem.message) == (2, "a number of more than 64 bits")
        assert problem.column == len(f"{key} = [1, ") + 1
        with pytest.raises(PolicyError, match="a policy needs no such number"):
            Policy.parse(f"mode = {digits}")

    @pytest.mark.parametrize("key", ["1234567890123456789_", "1111111111111111111__2", "0x" + "_" * 21, "1" * 5000])
    def test_a_key_that_looks_like_such_a_number_is_an_unknown_key(self, key: str) -> None:
        [problem] = Policy.check(f"mode = 'audit'\n{key} = 1")
        assert problem.line == 2 and problem.column == 1 and "number" not in problem.message

    def test_an_escape_of_toml_1_1_is_found_where_python_reads_it(self) -> None:
        text = "image = 'd:\\x64'\nparent = \"d:\\x64\\tool.exe\""
        problem = new_escape_at(text)
        assert problem is not None and (problem.line, problem.column) == (2, 15)
        assert new_escape_at(text.splitlines()[0]) is None

    @pytest.mark.parametrize("quote", ["'", '"', "'''", '"""'])
    def test_a_text_of_many_dots_is_no_key(self, quote: str) -> None:
        dots = ".".join("a" * 100)
        assert not problems(rule(f"verdict = 'ask' # {dots}\ncommand_line.contains = {quote}{dots}{quote}"))

    def test_a_text_of_many_digits_is_no_number(self) -> None:
        assert problems(rule("sha256 = '" + "1" * 64 + "'\ncommand_line = '*" + "1" * 64 + "'\nverdict = 'ask'")) == []
        assert (
            problems(rule("size.at_most = 9223372036854775807\nsession.at_least = 4294967295\nverdict = 'ask'")) == []
        )

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ("image = {}", 'column 9: image has no operator; write image = "...", or image = {contains = "..."}'),
            ("image = {glob = 'a.exe', case_sensitive = true}", "image is known in lower case only; leave it out"),
            ("command_line = {contain = 'a'}", 'command_line has no operator "contain"; write contains'),
            ("command_line = {contains_any = ['a']}", 'command_line has no operator "contains_any"; write contains'),
            ("command_line = {re = 'a.*'}", "there are no regular expressions: write contains, or glob with * and ?"),
            ("command_line = {windash = '-a'}", 'write each of them: contains = [" -x", " /x"]'),
            ("command_line = {cased = true}", "write case_sensitive"),
            (
                "'CommandLine|contains|all' = ['a']",
                'no key "CommandLine|contains|all"; write command_line = {contains_a',
            ),
            ("'Image|endswith' = 'a'", 'no key "Image|endswith"; write image = {ends_with = ...}'),
            ("'Image|re' = 'a'", "there are no regular expressions"),
            ("logon_id = 0x3e7", 'logon_id is a text, not 999; write logon_id = "0x3e7"'),
            ("command_line = {contains = ''}", "an empty command_line matches nothing"),
            ("command_line = {contains = []}", "an empty list of command_line matches nothing"),
            ("command_line = {at_least = 1}", "file_version, integrity, session and size have an order; write glob"),
            ("command_line = {not = 'a'}", "column 23: not is a table of operators; write not = {glob = ...}"),
            ("command_line = {known = 'yes'}", "known is true or false"),
            ("command_line = {known = false, contains = 'a'}", "that is not known meets no other operator"),
            ("integrity = {at_least = 'admin'}", 'there is no integrity "admin"; write "untrusted", "low"'),
            ("integrity = '12288'", 'no integrity is written "12288"; write "high"'),
            ("integrity = {equals = ['low', '8192']}", 'no integrity is written "8192"; write "medium"'),
            ("integrity = {not = {equals = '012289'}}", 'no integrity is written "012289"; write "12289"'),
            ("integrity = 's-1-16-012288'", 'write "S-1-16-12288"'),
            ("integrity = '99999999999'", 'there is no integrity "99999999999"'),
            ("logon_id = '0x00000000000003e7'", "a logon_id is hexadecimal without leading zeros"),
            ("session = 4294967296", "no session is so large: 4294967296; the largest is 4294967295"),
            ("session = '007'", "write session = 7"),
            ("session = '" + "1" * 5000 + "'", "a session is a number, not "),
            ("session = '1, " + "1" * 5000 + "'", "a session is a number, not "),
            ("file_version = {at_least = 10}", '10 is no version; write file_version = {at_least = "10.0.19041"}'),
            ("size = {at_least = '10 MB'}", 'a size is a number, not "10 MB"; write size = {at_least = '),
            ("size = {contains = '1'}", "size is a number"),
            ("origin = 'web'", 'there is no origin "web"; write "local", "intranet", "trusted", "internet" or "restri'),
            ("md5 = 'abc'", "an MD5 is 32 hexadecimal digits, and this is 3 characters"),
            ("any = 'a'", "any is a list of tables; write any = [{...}, {...}], or [[rule.any]]"),
            ("any = []", "an empty any says nothing"),
            ("any = [{image = 'a.exe'}, {}]", "column 27: an empty table matches every process; write facts in it"),
            ("any = [{verdict = 'ask'}]", 'any has no key "verdict"; it belongs to the rule: write it above the first'),
            ("any = [{image = 'a.exe', foo = 1}]", 'any has no key "foo"; any, all and unless contain facts'),
            ("unless = [{any = [{image = 'c:/x/'}]}]", "column 28: no image ends in a slash"),
            ("image = 'a.exe'\nany = [{imge = 'b'}]", 'line 3, column 9: any has no key "imge"; write image'),
            ("image = 'a.exe'\nany = []", "line 3, column 7: an empty any says nothing"),
            ("image = 'a.exe'\nall = [{}]", "line 3, column 8: an empty table matches every process"),
            (
                "until = '2026-12-31'",
                'until is a time, not "2026-12-31"; write until = 2026-12-31T12:00:00Z, no quotes',
            ),
            ("until = 2026-12-31T12:00:00", "until has no time zone; write until = 2026-12-31T12:00:00Z"),
            ("tags = 'a'", "tags is a list of texts"),
            ("message = ''", 'message is a text, not ""'),
            ("log = 'no'", "log is true or false; write log = false"),
            ("current_directory = 'c:/x/'", 'compared without a slash at its end; write "c:/x"'),
        ],
    )
    def test_mistakes_of_operators_and_groups(self, body: str, said: str) -> None:
        found = problems(rule(f"{body}\nverdict = 'ask'"))
        assert len(found) == 1 and said in found[0], found

    def test_an_inline_table_over_several_lines_is_explained_or_read(self) -> None:
        """It is TOML 1.1, which Python reads from 3.15 on."""
        text = rule("verdict = 'ask'\nany = [{\n  image = 'a.exe',\n  uzer = 'b'}]")
        try:
            tomllib.loads("a = {\n}")
        except tomllib.TOMLDecodeError:
            advice = "an inline table stands on one line: write [[rule.any]]"
        else:
            advice = 'line 5, column 3: any has no key "uzer"; write user'
        [problem] = problems(text)
        assert advice in problem

    def test_a_comma_before_a_brace_is_named_or_read(self) -> None:
        """TOML 1.1 has it, too."""
        try:
            tomllib.loads("a = {b = 1,}")
        except tomllib.TOMLDecodeError:
            assert "delete the comma before }" in problems(rule("verdict = 'ask'\nimage = {glob = 'a.exe', }"))[0]
        else:
            assert problems(rule("verdict = 'ask'\nimage = {glob = 'a.exe', }")) == []

    @pytest.mark.parametrize("escape", [r"\x64", r"\e"])
    def test_an_escape_that_only_newer_pythons_read_is_refused(self, escape: str) -> None:
        said = r"unescaped '\' in a string; write paths with slashes, c:/windows, or in single quotes"
        for text in (f'"d:{escape}"', rf'"d:\\{escape}"', f"['{escape}', \"d:{escape}\\u0041\"]"):
            [problem] = problems(rule(f"verdict = 'ask'\nimage = {text}"))
            column = len("image = ") + text.rindex(escape) + 3
            assert problem.startswith(f"line 3, column {column}: {said}")
        literal = rf"""verdict = 'ask' # "{escape}"
command_line = {{contains = 'a{escape}'}}
parent_command_line = {{contains = "b\{escape}"}}"""
        assert problems(rule(literal)) == []

    def test_invisible_characters_are_named(self) -> None:
        assert problems("mode = 'audit'\n\ufeffdefault = 'ask'") == [
            "line 2, column 1: line 2 begins with the invisible U+FEFF; delete it"
        ]
        assert problems("mode =\u00a0'audit'") == ["line 1, column 7: line 1 has the invisible U+00A0; delete it"]
        [problem] = Policy.check(rule("verdict = 'ask'\nimage = 'c:/a\u200b.exe' # \u200b"))
        assert str(problem).startswith(
            "line 3, column 14: the text has the invisible U+200B in it; delete it, or write"
        )
        assert not problem.fatal
        assert problems(rule("verdict = 'ask'\ncommand_line = {contains = \"\\u200b\"}")) == []

    @pytest.mark.parametrize(
        "condition",
        [
            *(f"image = {image!r}" for image in (
                "a.exe", "*.exe", "c:/a.exe", "C:/**/a?.exe", "**/a.exe", "*:/a.exe", "?:/a.exe", "//nas/share/a.exe",
                "//nas/share/**", "a[1].exe", "100% sure.exe", "c:/windows /**", "c:/program files (x86)/*/a-b.exe",
                "*:*", "a.txt:b.exe", "c:/$recycle.bin/**", "c:/progra~1/**", "note*", "c:/x, y/a.exe", "**/.venv/**",
            )),
            "image = 'c:\\a.exe'", "image = '\\Device\\Mup\\x\\a.exe'", "image = 'c:/{9-a}/a.exe'",
            "image = '\\\\nas\\x\\a.exe'",
            "parent = 'System'", "parent = {equals = 'MemCompression'}", "group = 'S-1-5-21-*'",
            "image = {starts_with = 'c:'}",
            "image = {equals = '/device/mup/x/a.exe'}", "image = {starts_with = 'd'}", "user = {equals = 'S-1-5-18'}",
            "command_line = {contains = '*.*'}", "command_line = {contains = '*'}", "logon_id = '0x3E7'",
            "command_line = '*.*'", "user = 'NT AUTHORITY/SYSTEM'", "user = 'S-1-5-18'", "user = 'DESKTOP\\ann'",
            "command_line = '*\"c:\\x y\\a.exe\" /c*'", "command_line = 'cmd /c x.cmd'", "signer = 'Example, Inc.'",
            "publisher = 'O=Example Ltd, L=X, S=Y, C=DE'", "command_line = {contains = 'a;b'}",
            "command_line = {glob = '*ipconfig*|*find*'}", "command_line = '*/c a.exe;b.exe*'",
            "description = 'Reads, writes and prints'", "company = 'Foo, Bar and Sons'",
        ],
    )  # fmt: skip
    def test_what_is_right_is_left_alone(self, condition: str) -> None:
        assert problems(rule(condition + "\nverdict = 'ask'")) == []

    def test_all_mistakes_are_reported_in_the_order_of_the_text(self) -> None:
        text = rule("verdict = 'deny'\nimg = 'a'") + rule("image = 3") + "mod = 1\n"
        places = [(problem.line, problem.column) for problem in Policy.check(text)]
        assert places == sorted(places)
        assert len(places) == 5
        with pytest.raises(
            PolicyError, match=re.escape("<text>: 5 mistakes in the policy\n  line 2, column 11")
        ) as caught:
            Policy.parse(text)
        assert len(caught.value.problems) == 5

    def test_a_message_does_not_grow_with_the_mistakes(self) -> None:
        with pytest.raises(PolicyError, match="and 980 more$") as caught:
            Policy.parse(rule("verdict = 'x'") * 1000)
        assert len(caught.value.problems) == 1000

    @pytest.mark.parametrize("depth", [100, 300, 400, 470])
    @pytest.mark.parametrize("above", ["mode = ", "[[rule]]\nverdict = ", "[[rule]]\nverdict = 'ask'\nimage = "])
    def test_deep_values_are_mistakes_like_others_and_shown_in_short(self, above: str, depth: int) -> None:
        [problem] = Policy.check(above + "[" * depth + "]" * depth)
        assert len(str(problem)) < 250

    @given(st.text())
    def test_no_text_is_worse_than_a_policy_error(self, text: str) -> None:
        for problem in Policy.check(text):
            assert 1 <= problem.line <= text.count("\n") + 1
        try:
            Policy.parse(text)
        except PolicyError:
            pass

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text("abc*/\\:.'\t%", max_size=6),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=4,
        ),
        st.sampled_from(["image", "user", "session", "sha256", "signer", "command_line", "verdict", "name", "audit"]),
    )
    def test_no_value_is_worse_than_a_policy_error(self, value: object, key: str) -> None:
        import json

        text = rule(f"{key} = {json.dumps(value).replace('null', '1.5')}")
        for problem in Policy.check(text):
            assert problem.advice
