"""The service of guard: its installation, refusals with their reasons, and the file that lets everything run."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import procmon
from commandline import ASKING, CommandGate, Scene
from patience import PATIENCE
from procmon import AccessDenied, DriverNotInstalled, ProcmonError, Verdict
from procmon.cli import hold_commands, main
from procmon.cli.allow_all import AllowAll
from procmon.cli.live_policy import read_guard_state, write_guard_state
from procmon.cli.parser import parse
from procmon.cli.service_commands import NAME, GuardService, _arguments, _prepare_machine, _warn
from procmon.cli.service_files import PythonLayout, package_files, python_files, python_layout
from procmon.win32 import codes, scm


class Manager:
    """Stands for the service control manager."""

    def __init__(self, *names: str) -> None:
        self.services = dict.fromkeys(names, scm.STOPPED)
        self.commands: dict[str, str] = {}
        self.after = ""
        self.refuses = 0

    def create_program(self, name: str, display: str, command: str, *, after: str, description: str) -> None:
        self._check()
        if name in self.services:
            raise error(codes.ERROR_SERVICE_EXISTS)
        self.services[name], self.commands[name], self.after = scm.STOPPED, command, after

    def start(self, name: str) -> None:
        self._find(name)
        if self.services[name] == scm.RUNNING:
            raise error(codes.ERROR_SERVICE_ALREADY_RUNNING)
        self.services[name] = scm.RUNNING

    def stop(self, name: str) -> scm.ServiceState:
        self._find(name)
        if self.services[name] != scm.RUNNING:
            raise error(codes.ERROR_SERVICE_NOT_ACTIVE)
        self.services[name] = scm.STOPPED
        return scm.ServiceState(scm.STOPPED)

    def query(self, name: str) -> scm.ServiceState:
        self._find(name)
        return scm.ServiceState(self.services[name])

    def image_path(self, name: str) -> str:
        return self.commands[name]

    def delete(self, name: str) -> None:
        self._find(name)
        del self.services[name]

    def _find(self, name: str) -> None:
        self._check()
        if name not in self.services:
            raise error(codes.ERROR_SERVICE_DOES_NOT_EXIST)

    def _check(self) -> None:
        if self.refuses:
            raise error(self.refuses)


def error(code: int) -> OSError:
    return OSError(code, f"Windows error {code}")


NO_PYTHON = PythonLayout([], "")


def service(
    manager: Manager,
    others: Callable[[str], dict[str, list[str]]] = lambda _: {},
    layout: PythonLayout = NO_PYTHON,
) -> GuardService:
    python = "C:\\Program Files\\Python\\python.exe"
    return GuardService(manager=manager, others=others, python=python, layout=lambda _: layout)


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "office.toml"
    path.write_text('[[rule]]\nimage = "**/downloads/**"\nverdict = "block"\n')
    return path


@pytest.fixture
def asking(tmp_path: Path) -> Path:
    path = tmp_path / "ask.toml"
    path.write_text('[[rule]]\nimage = "**/downloads/**"\nverdict = "ask"\n')
    return path


def test_the_service_runs_guard_in_isolation_after_the_driver(policy: Path) -> None:
    manager = Manager("ProcMonGate")
    service(manager).install([policy], ["--hold", "5"], fail=None)
    command = manager.commands[NAME]
    assert command.startswith('"C:\\Program Files\\Python\\python.exe" -I -m procmon service run --policy ')
    assert str(policy) in command and command.endswith(" --hold 5")
    assert manager.after == "ProcMonGate"


def test_what_is_installed_can_be_parsed_again(policy: Path) -> None:
    options = parse(["service", "run", "--policy", str(policy), "--log", "a b.jsonl", "--hold", "0", "--fail", "block"])
    assert (options.command, options.policy, options.hold, options.fail) == (
        "service run",
        [policy],
        None,
        Verdict.BLOCK,
    )


def test_without_a_policy_it_is_refused() -> None:
    with pytest.raises(ProcmonError, match="give --policy FILE"):
        service(Manager("ProcMonGate")).install([], [], fail=None)


def test_a_policy_that_asks_needs_the_verdict_of_its_questions(asking: Path) -> None:
    manager = Manager("ProcMonGate")
    with pytest.raises(ProcmonError, match="no terminal to ask on: give their verdict with --fail allow or"):
        service(manager).install([asking], [], fail=None)
    assert NAME not in manager.services
    service(manager).install([asking], [], fail=Verdict.BLOCK)
    assert NAME in manager.services


@pytest.mark.parametrize("writable", ["python.exe", "office.toml", "monitor"])
def test_what_others_can_change_is_not_run_as_the_system(policy: Path, writable: str) -> None:
    manager = Manager("ProcMonGate")

    def others(path: str) -> dict[str, list[str]]:
        return {path: ["Users"]} if path.endswith(writable) else {}

    with pytest.raises(ProcmonError, match=rf"Users can change .*{writable}.*icacls"):
        service(manager, others).install([policy], [], fail=None)
    assert NAME not in manager.services


def test_without_the_driver_it_is_refused(policy: Path) -> None:
    with pytest.raises(DriverNotInstalled, match="procmon-gate driver install"):
        service(Manager()).install([policy], [], fail=None)


@pytest.mark.parametrize("flag", ["--audit", "--check-before-release"])
def test_the_service_runs_with_the_flags_that_it_was_installed_with(policy: Path, flag: str) -> None:
    for flags in ([], [flag]):
        options = parse(["service", "install", "--policy", str(policy), "--log", "guard.jsonl", *flags])
        arguments = _arguments(options)
        again = parse(["service", "run", "--policy", str(policy), *arguments])
        assert (flag in arguments) == bool(flags)
        assert (again.audit, again.check_before_release) == (options.audit, options.check_before_release)


def test_installed_twice_it_says_so(policy: Path) -> None:
    made = service(Manager("ProcMonGate"))
    made.install([policy], [], fail=None)
    with pytest.raises(ProcmonError, match="installed already"):
        made.install([policy], [], fail=None)


def test_its_life(policy: Path) -> None:
    made = service(Manager("ProcMonGate"))
    assert made.status()["state"] == "not installed"
    made.install([policy], [], fail=None)
    assert made.status()["state"] == "stopped"
    made.start()
    assert made.status()["state"] == "running"
    with pytest.raises(ProcmonError, match="runs already"):
        made.start()
    made.delete()
    assert made.status()["state"] == "not installed"


@pytest.mark.parametrize("step", ["start", "stop", "delete"])
def test_a_service_that_is_not_there_is_to_be_installed_first(step: str) -> None:
    with pytest.raises(ProcmonError, match="procmon-gate service install"):
        getattr(service(Manager()), step)()


def test_without_an_administrator_the_error_says_so(policy: Path) -> None:
    manager = Manager("ProcMonGate", NAME)
    manager.refuses = codes.ERROR_ACCESS_DENIED
    with pytest.raises(AccessDenied, match="as an administrator"):
        service(manager).start()


class TestAllowAll:
    """The file that lets everything run."""

    def made(self, path: Path, others: dict[str, list[str]] | None = None) -> tuple[AllowAll, list[str], list[float]]:
        notes: list[str] = []
        now = [0.0]
        allow_all = AllowAll(notes.append, path=path, others=lambda _: others or {}, clock=lambda: now[0])
        return allow_all, notes, now

    def test_it_counts_from_the_moment_it_is_there_until_it_is_removed(self, tmp_path: Path) -> None:
        allow_all, notes, now = self.made(tmp_path / "allow-all")
        assert not allow_all.active
        (tmp_path / "allow-all").touch()
        now[0] = 1.5
        assert allow_all.has_changed() and allow_all.active
        assert not allow_all.has_changed()
        (tmp_path / "allow-all").unlink()
        now[0] = 3.0
        assert allow_all.has_changed() and not allow_all.active
        assert [note.partition(" is ")[2].split(":")[0] for note in notes] == ["there", "gone"]

    def test_it_is_looked_at_once_a_second(self, tmp_path: Path) -> None:
        allow_all, _, now = self.made(tmp_path / "allow-all")
        (tmp_path / "allow-all").touch()
        now[0] = 0.5
        assert not allow_all.has_changed()
        now[0] = 1.0
        assert allow_all.has_changed()

    def test_one_that_others_can_write_is_not_believed_and_it_says_so_once(self, tmp_path: Path) -> None:
        path = tmp_path / "allow-all"
        path.touch()
        allow_all, notes, now = self.made(path, {str(tmp_path): ["Users"]})
        for now[0] in (1.0, 2.0, 3.0):
            assert not allow_all.has_changed() and not allow_all.active
        assert notes == [f"{path} is ignored: Users can change {tmp_path}"]


def test_guard_lets_everything_run_while_the_file_is_there(tmp_path: Path) -> None:
    from io import StringIO

    from procmon.cli.screen import Screen
    from procmon.cli.session import Session

    path = tmp_path / "allow-all"
    path.touch()
    allow_all = AllowAll(lambda _: None, path=path, others=lambda _: {})
    policy = procmon.Policy.parse('default = "block"')
    gate = procmon.SimulatedGate()
    session = Session(gate, Screen(StringIO()), policy=policy, allow_all=allow_all)
    session.monitor.start()
    assert gate.verdict_of(gate.start("a.exe")) is Verdict.ALLOW
    assert session.monitor.history[-1].who == "allow-all"
    session.monitor.stop()


def test_guard_lets_what_waits_for_an_answer_run_when_the_file_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    path, rules = tmp_path / "allow-all", tmp_path / "policy.toml"
    rules.write_text(ASKING, "utf-8")
    monkeypatch.setattr(hold_commands, "AllowAll", lambda note: AllowAll(note, path=path, others=lambda _: {}))
    verdicts: list[Verdict | None] = []

    def start_one(gate: CommandGate) -> None:
        process = gate.start("c:/tools/a.exe")
        assert scene.questions.wait(PATIENCE)
        path.touch()
        verdicts.append(gate.verdict_of(process, timeout=PATIENCE))

    main.main(["guard", "--policy", str(rules)], scene.gates(start_one, keys=""))
    assert verdicts == [Verdict.ALLOW]


@pytest.mark.parametrize("step", ["install", "start", "stop", "delete", "status", "run"])
def test_each_step_has_a_help(step: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["service", step, "--help"])
    assert end.value.code == 0
    assert "usage: procmon-gate service" in capsys.readouterr().out


def test_a_file_in_a_folder_of_policies_that_others_can_change_is_refused(policy: Path) -> None:
    manager = Manager("ProcMonGate")

    def others(path: str) -> dict[str, list[str]]:
        return {path: ["Users"]} if path.endswith("office.toml") else {}

    with pytest.raises(ProcmonError, match=r"Users can change .*office\.toml"):
        service(manager, others).install([policy.parent], [], fail=None)
    assert NAME not in manager.services


PROGRAM_DATA = "O:SYD:PAI(A;OICIIO;GA;;;CO)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)(A;CI;DCLCRPCR;;;BU)"
PRIVATE = "O:BAD:P(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)(A;OICI;0x1200a9;;;BU)"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of allow-all, not made yet, in a ProgramData with the rights that Windows gives it."""
    place = tmp_path / "ProgramData" / "procmon-gate"
    place.parent.mkdir()
    rights = {str(place.parent): PROGRAM_DATA}
    monkeypatch.setattr("procmon.cli.service_commands.EventLogSink.install", lambda name: None)
    monkeypatch.setattr("procmon.cli.allow_all.folder", lambda: place)
    monkeypatch.setattr("procmon.cli.service_commands.folder", lambda: place)
    monkeypatch.setattr("procmon.cli.allow_all.make_private_folder", lambda path: Path(path).mkdir())
    monkeypatch.setattr("procmon.win32.file_access.descriptor", lambda path: rights.get(path, PRIVATE))
    monkeypatch.setattr("procmon.win32.file_access.PureWindowsPath", Path)
    return place


def test_install_makes_the_folder_of_allow_all_in_a_programdata_as_windows_makes_it(place: Path) -> None:
    for _ in range(2):
        _prepare_machine(None)
        assert place.is_dir()


def owned_by_a_user(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> None:
    descriptors = {str(path): "O:S-1-5-21-1-2-3-1001D:(A;;FA;;;SY)" for path in paths}
    monkeypatch.setattr("procmon.win32.file_access.descriptor", lambda path: descriptors.get(path, PRIVATE))


def test_install_refuses_a_folder_of_allow_all_that_a_user_made_first(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.mkdir()
    owned_by_a_user(monkeypatch, place)
    with pytest.raises(ProcmonError, match=r"1001 can change .*procmon-gate, .* delete it: rmdir /s"):
        _prepare_machine(None)


def test_install_refuses_a_log_in_a_folder_that_a_user_can_change(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user could put a folder of the log's name there, and the service would not start."""
    logs = tmp_path / "Logs"
    logs.mkdir()
    owned_by_a_user(monkeypatch, logs)
    with pytest.raises(ProcmonError, match=r"1001 can change .*Logs, .*icacls"):
        _prepare_machine(logs / "guard.jsonl")


@pytest.mark.parametrize("name", ["guard.jsonl", "guard.jsonl.1"])
def test_install_refuses_a_log_that_belongs_to_a_user(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    place.mkdir()
    (place / name).touch()
    owned_by_a_user(monkeypatch, place / name)
    with pytest.raises(ProcmonError, match=rf"1001 can change .*{name}, .*icacls"):
        _prepare_machine(None)


def test_install_refuses_a_log_that_cannot_be_written(place: Path, tmp_path: Path) -> None:
    place.mkdir()
    (place / "guard.jsonl").mkdir()
    for log in (place / "guard.jsonl", tmp_path / "none" / "guard.jsonl"):
        with pytest.raises(ProcmonError, match="the service cannot write it: give --log the path of a file"):
            _prepare_machine(log)


def test_who_corrects_the_rights_of_a_policy_lets_no_user_read_it(policy: Path) -> None:
    with pytest.raises(ProcmonError) as refused:
        service(Manager("ProcMonGate"), lambda path: {path: ["Users"]} if path == str(policy) else {}).install(
            [policy], [], fail=None
        )
    assert "*S-1-5-32-544:F" in str(refused.value) and "S-1-5-32-545" not in str(refused.value)


def test_who_corrects_the_rights_of_python_lets_users_run_it(environment: PythonLayout, policy: Path) -> None:
    base = environment.places[1]
    with pytest.raises(ProcmonError, match=r"\*S-1-5-32-545:\(OI\)\(CI\)RX"):
        service(Manager("ProcMonGate"), lambda path: {path: ["Users"]} if path == base else {}, environment).install(
            [policy], [], fail=None
        )


@pytest.mark.parametrize(
    ("readable", "warning"),
    [("Logs", "passwords"), ("guard.jsonl", "passwords"), ("office.toml", "holds a policy open")],
)
def test_install_warns_of_a_log_and_a_policy_that_users_can_read(
    place: Path,
    policy: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    readable: str,
    warning: str,
) -> None:
    log = policy.parent / "Logs" / "guard.jsonl"
    log.parent.mkdir()
    log.touch()
    private = "O:BAD:P(A;;FA;;;SY)(A;;FA;;;BA)"
    monkeypatch.setattr(
        "procmon.win32.file_access.descriptor", lambda path: PRIVATE if Path(path).name == readable else private
    )
    _warn(parse(["service", "install", "--policy", str(policy), "--log", str(log)]))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"procmon-gate: Users can read {policy.parent}") and warning in line
    assert line.count("icacls") == 3 and "S-1-5-32-545" not in line


def is_named(name: str) -> Callable[[str], bool]:
    """Stands for `is_link`: links of this name, as not every account may make one on Windows."""
    return lambda path: Path(path).name == name


def test_install_refuses_a_folder_of_allow_all_that_is_a_link(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("procmon.cli.allow_all.is_link", is_named("procmon-gate"))
    with pytest.raises(ProcmonError, match="procmon-gate is a link, and guard would write where it leads"):
        _prepare_machine(None)


@pytest.mark.parametrize("name", ["Python313", "encodings"])
def test_install_refuses_a_python_behind_a_link_and_one_with_a_link_in_it(
    policy: Path, environment: PythonLayout, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The rights of a junction are those of the folder behind it; its owner can make it lead elsewhere."""
    monkeypatch.setattr("procmon.cli.service_files.is_link", is_named(name))
    with pytest.raises(ProcmonError, match=f"{name} is a link, .*give the path to which it leads"):
        service(Manager("ProcMonGate"), layout=environment).install([policy], [], fail=None)


class TestGuardState:
    """guard.json, which `guard` writes as an administrator into a folder that any user can make first."""

    @pytest.fixture
    def policy(self) -> procmon.Policy:
        return procmon.Policy.parse('default = "ask"')

    def test_it_is_written_into_a_folder_for_administrators(self, place: Path, policy: procmon.Policy) -> None:
        write_guard_state(policy)
        assert read_guard_state(place / "guard.json")

    def test_a_folder_that_a_user_made_is_left_alone(
        self,
        place: Path,
        policy: procmon.Policy,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        place.mkdir()
        owned_by_a_user(monkeypatch, place)
        write_guard_state(policy)
        assert not list(place.iterdir())
        assert "1001 can change" in caplog.text

    def test_a_file_to_which_a_link_leads_keeps_its_text(
        self, place: Path, tmp_path: Path, policy: procmon.Policy
    ) -> None:
        place.mkdir()
        victim = tmp_path / "victim.txt"
        victim.write_text("kept")
        os.link(victim, place / "guard.new")
        write_guard_state(policy)
        assert victim.read_text() == "kept"
        assert read_guard_state(place / "guard.json")


def test_install_checks_the_folder_around_the_package_whose_pth_files_python_runs() -> None:
    assert str(Path(procmon.__file__).resolve().parents[1]) in set(package_files())


def test_install_checks_each_file_of_the_package_and_what_python_made_of_it() -> None:
    checked = set(package_files())
    for file in Path(procmon.__file__).resolve().parent.rglob("*"):
        assert str(file) in checked


@pytest.fixture
def environment(tmp_path: Path) -> PythonLayout:
    """A virtual environment, and the Python from which it was made."""
    base, venv = tmp_path / "Python313", tmp_path / "venv"
    for name in (
        "Python313/python.exe", "Python313/python313.dll", "Python313/DLLs/_socket.pyd", "Python313/Lib/os.py",
        "Python313/Lib/encodings/__init__.py", "Python313/Lib/encodings/__pycache__/__init__.cpython-313.pyc",
        "Python313/Lib/site-packages/other/__init__.py",
        "venv/pyvenv.cfg", "venv/Scripts/python.exe", "venv/Lib/site-packages/editable.pth",
    ):  # fmt: skip
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    path = [base / "python313.zip", base / "DLLs", base / "Lib", base, venv, venv / "Lib" / "site-packages"]
    places = [venv / "Scripts", base, venv, base, *path]
    return PythonLayout([str(place) for place in places], str(base / "Lib"))


@pytest.mark.parametrize(
    "writable",
    [
        "Python313", "python.exe", "python313.dll", "DLLs", "_socket.pyd", "Lib", "os.py", "encodings",
        "__init__.cpython-313.pyc", "pyvenv.cfg", "Scripts", "site-packages", "editable.pth",
    ],
)  # fmt: skip
def test_a_python_whose_base_others_can_change_does_not_run_as_the_system(
    policy: Path, environment: PythonLayout, writable: str
) -> None:
    manager = Manager("ProcMonGate")

    def others(path: str) -> dict[str, list[str]]:
        inside = Path(path).is_relative_to(policy.parent)
        return {path: ["Users"]} if inside and Path(path).name == writable else {}

    with pytest.raises(ProcmonError, match=rf"Users can change .*{writable}, and the service would use it"):
        service(manager, others, environment).install([policy], [], fail=None)
    assert NAME not in manager.services


def test_packages_that_the_service_does_not_import_are_not_checked(environment: PythonLayout) -> None:
    assert not [path for path in python_files(environment) if "other" in Path(path).parts]


def test_of_a_file_that_is_not_there_install_checks_the_folder_in_which_others_could_make_it(tmp_path: Path) -> None:
    missing = PythonLayout([str(tmp_path / "folder" / "python313.zip")], str(tmp_path / "folder" / "python313.zip"))
    assert list(python_files(missing)) == [str(tmp_path)]


def test_a_python_says_where_the_one_is_that_runs_its_code() -> None:
    layout = python_layout(sys.executable)
    for needed in (os.path.dirname(vars(sys)["_base_executable"]), sys.prefix, sys.base_prefix):
        assert needed in layout.places
    assert layout.library == os.path.dirname(os.__file__)
    assert os.getcwd() not in layout.places


def test_a_python_that_does_not_run_is_refused(policy: Path, tmp_path: Path) -> None:
    python = str(tmp_path / "python.exe")
    with pytest.raises(ProcmonError, match=r"python\.exe does not run"):
        GuardService(manager=Manager("ProcMonGate"), others=lambda _: {}, python=python).install(
            [policy], [], fail=None
        )
