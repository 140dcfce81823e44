"""Why there is no connection: which servers were tried since it broke, and what each came to, in words."""

from __future__ import annotations

from typing import Final

_KEPT: Final = 8
"""Servers told of at most: those tried last."""


class Trouble:
    """Servers and reasons, the last one tried at the end; for an error's text, so nothing in it may be a secret."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def begin(self, server: str, why: str) -> None:
        """The connection to that server broke; what was noted before is over."""
        self._reasons.clear()
        self.note(server, why or "the connection broke")

    def note(self, server: str, why: str) -> None:
        """It does not let us in, for this reason."""
        self._reasons.pop(server, None)
        if len(self._reasons) >= _KEPT:
            del self._reasons[next(iter(self._reasons))]
        self._reasons[server] = why

    def __str__(self) -> str:
        return "; ".join(f"{server}: {why}" for server, why in self._reasons.items())
