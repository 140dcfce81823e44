"""The directory of one server: JetStream's files, configuration, log and the lock on all of it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from broker.server.config import arguments, render
from broker.server.errors import ServerError

if TYPE_CHECKING:
    from broker.server.config import Settings

_PORTS = "*.ports"
_TAIL_LINES = 15
_TAIL_BYTES = 16384


class Store:
    """A given directory, or a temporary one from ``open()`` to ``close()``."""

    def __init__(self, given: str | Path | None) -> None:
        self._given = Path(given).absolute() if given is not None else None
        self._path = self._given
        self._mark = 0

    @property
    def path(self) -> Path:
        """The directory."""
        if self._path is None:
            raise ServerError("the temporary store exists only from start() to stop()")
        return self._path

    @property
    def temporary(self) -> Path | None:
        """The directory if it has to go at the end."""
        return self._path if self._given is None else None

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.path / "nats-server.log"

    @property
    def lock(self) -> Path:
        """Locked while a server uses the directory."""
        return self.path / ".lock"

    @property
    def _config(self) -> Path:
        return self.path / "nats-server.conf"

    def open(self, settings: Settings) -> list[str]:
        """Makes the directory ready for a start; returns the command line after the executable."""
        try:
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix="gamebroker-"))
            self._path.mkdir(parents=True, exist_ok=True)
            for left in self._path.glob(_PORTS):
                left.unlink(missing_ok=True)
            self.write(settings)
        except OSError as failed:
            raise ServerError(f"the store {self._path or tempfile.gettempdir()} cannot be used: {failed}") from failed
        return arguments(settings, config=self._config, store=self._path, log=self.log)

    @property
    def blank(self) -> bool:
        """Whether no server has stored anything here yet."""
        return self._path is None or not self._jetstream.exists()

    def wipe(self) -> None:
        """Removes all that JetStream has stored."""
        shutil.rmtree(self._jetstream, ignore_errors=True)

    @property
    def _jetstream(self) -> Path:
        return self.path / "jetstream"

    def write(self, settings: Settings) -> None:
        """Writes the configuration, and has ``tail()`` begin at the log's present end."""
        self._config.touch(mode=0o600)  # the text may hold passwords
        self._config.write_text(render(settings), encoding="utf-8")
        self._mark = self._log_size()

    def ports_are_bound(self) -> bool:
        """Whether it is our server that holds the ports: it writes a file when it has bound all of them."""
        return any(self.path.glob(_PORTS))

    def tail(self) -> str:
        """Returns the last lines the server logged since the last ``write()``."""
        try:
            with self.log.open("rb") as log:
                log.seek(max(self._mark, self._log_size() - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except (OSError, ServerError):
            return ""
        # Waiting for a cluster asks for its health again and again; each "not yet" is a line that says nothing new.
        return "\n".join([line for line in lines if "Healthcheck failed" not in line][-_TAIL_LINES:])

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def close(self) -> None:
        """Removes a temporary directory; a given one stays."""
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
        self._path = self._given
