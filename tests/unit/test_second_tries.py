"""A test that fails at first has a second try in CI, and says so; many of them fail the run."""

import subprocess
import sys

import pytest

from tests.second_tries import MOST

CONFTEST = """
from tests.second_tries import SecondTries

def pytest_configure(config):
    config.pluginmanager.register(SecondTries(), "second tries")
"""
UNLUCKY = """
import pytest

tried = set()

@pytest.mark.parametrize("number", range(10))
def test_goes_well_at_last(number):
    first = number not in tried
    tried.add(number)
    assert not (first and number < {unlucky}), "the disk stood still"
"""
BROKEN = """
def test_never_goes_well():
    assert not "broken"
"""


@pytest.fixture
def run(tmp_path, pytestconfig):
    (tmp_path / "conftest.py").write_text(CONFTEST)

    def run(module, workers):
        (tmp_path / "test_it.py").write_text(module)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers, "--reruns", "1"]
        environment = {"PYTHONPATH": str(pytestconfig.rootpath), "PATH": ""}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("workers", ["0", "2"])
def test_few_are_told_with_how_they_failed(run, workers):
    ended = run(UNLUCKY.format(unlucky=1), workers)
    assert ended.returncode == 0, ended.stdout
    assert "10 passed, 1 rerun" in ended.stdout
    assert "FAILED AT FIRST: test_it.py::test_goes_well_at_last[0]" in ended.stdout
    assert "the disk stood still" in ended.stdout


def test_many_fail_the_run(run):
    ended = run(UNLUCKY.format(unlucky=MOST + 1), "2")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert f"{MOST + 1} tests needed a second try" in ended.stdout


def test_who_fails_twice_has_failed(run):
    ended = run(BROKEN, "0")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    assert "1 failed, 1 rerun" in ended.stdout
