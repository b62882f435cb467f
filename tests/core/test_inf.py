"""driver/procmon.inf: a primitive driver, with the files, the service and the version of this project."""

import configparser
import re

import pytest

import procmon
from core.harness import PROJECT, build
from procmon.driver.info import SERVICE


@pytest.fixture(scope="module")
def inf() -> configparser.ConfigParser:
    """driver/procmon.inf."""
    parser = configparser.ConfigParser(
        comment_prefixes=";", inline_comment_prefixes=";", interpolation=None, allow_no_value=True, delimiters="="
    )
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(PROJECT / "driver" / "procmon.inf", "utf-8")
    return parser


def test_the_inf_is_that_of_a_primitive_driver(inf: configparser.ConfigParser) -> None:
    """https://learn.microsoft.com/windows-hardware/drivers/develop/creating-a-primitive-driver"""
    assert {"Class", "ClassGuid", "Provider", "CatalogFile", "DriverVer"} <= set(inf["Version"])
    assert inf["Version"]["Signature"] == '"$WINDOWS NT$"'
    assert inf["DestinationDirs"]["DefaultDestDir"] == "13", "the driver store"
    sections = set(inf.sections())
    assert not sections & {"Manufacturer", "DefaultInstall", "DefaultUninstall"}
    installs = {section for section in sections if section.startswith("DefaultInstall.")}
    assert installs == {f"DefaultInstall.NT{name}{part}" for name in ("amd64", "arm64") for part in ("", ".Services")}


def test_the_inf_names_the_files_of_the_build_the_service_and_the_version(inf: configparser.ConfigParser) -> None:
    for name, folder in (("amd64", "x64"), ("arm64", "arm64")):
        assert dict(inf[f"SourceDisksFiles.{name}"]) == {"procmon.sys": f"1,{folder}"}
        assert folder in build().ARCHITECTURES
        assert inf[f"DefaultInstall.NT{name}.Services"]["AddService"] == f"{SERVICE},,Service"
    assert inf["Version"]["DriverVer"].split(",")[1] == f"{procmon.__version__}.0"
    service = inf["Service"]
    assert (service["ServiceType"], service["StartType"], service["ErrorControl"]) == ("1", "3", "1")
    assert service["ServiceBinary"] == "%13%\\procmon.sys"


def test_every_text_that_the_inf_uses_is_defined(inf: configparser.ConfigParser) -> None:
    used = set(re.findall(r"%([A-Za-z]+)%", (PROJECT / "driver" / "procmon.inf").read_text("utf-8")))
    assert used and used == set(inf["Strings"])
