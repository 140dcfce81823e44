"""Where figures are kept: a place that can be written is found before the measuring, not after."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Final

SHELF: Final = Path("build", "loadtest")
"""Unless somebody says otherwise: in the working directory, so that nobody else writes there, and ignored by git."""


def folder(text: str) -> Path:
    """An argument that names a folder to write into; made when it is missing.

    Raises:
        ArgumentTypeError: nothing can be written there.
    """
    path = Path(text)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise argparse.ArgumentTypeError(f"cannot make the folder {path}: {exc.strerror}") from exc
    if not os.access(path, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"cannot write into {path}")
    return path


def file(text: str) -> Path:
    """An argument that names a file to write; its folder is made when it is missing.

    Raises:
        ArgumentTypeError: it cannot be written.
    """
    path = Path(text)
    folder(str(path.parent))
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise argparse.ArgumentTypeError(f"cannot write {path}")
    return path
