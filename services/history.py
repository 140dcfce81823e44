"""A process's own record of what it did, one JSON object per line: evidence that no broker or database made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

if TYPE_CHECKING:
    from pathlib import Path


class History:
    """Appends lines to a file; without a path it keeps nothing. A line is out of the process when ``write`` returns."""

    def __init__(self, path: Path | None) -> None:
        self._file = None if path is None else path.open("ab", buffering=0)

    def write(self, op: str, **fields: object) -> None:
        """Append ``{"op": op, ...}``."""
        if self._file is not None:
            self._file.write(msgspec.json.encode({"op": op, **fields}) + b"\n")

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
