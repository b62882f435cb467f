"""Fixtures of driver tests: the loaded driver, and programs that it holds. Also a plugin of test_python32."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import procmon
from driven import Programs, telling_kernel

__all__ = ["programs", "service"]


@pytest.fixture(scope="module")
def service() -> Iterator[procmon.DriverService]:
    with procmon.DriverService() as service:
        yield service


@pytest.fixture
def programs(service: procmon.DriverService, tmp_path: Path) -> Iterator[Programs]:
    """Created before a test's gate and closed after it, so that no process is held when the programs end."""
    with telling_kernel() as run:
        programs = Programs(tmp_path, run)
        yield programs
        programs.close()
