"""What may be done on this machine: some faults need rights that not everybody has."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from loadtest.chaos.catalogue import Kind
    from loadtest.chaos.modes import Slice

_TRIAL: Final = "gbtrial"


def lacking(kind: Kind, part: Slice) -> str:
    """Why it cannot be done in this slice, here; empty when it can."""
    return "; ".join(_lacks(kind, part))


def _lacks(kind: Kind, part: Slice) -> Iterator[str]:
    if "outbox" in kind.needs and part.send != "outbox":
        yield "needs producers with an outbox (--send outbox)"
    if "mount" in kind.needs and not _may_mount():
        yield "needs the right to mount a file system"
    if "netns" in kind.needs and not _may_divide():
        yield "needs the right to make network namespaces"


@cache
def _may_mount() -> bool:
    if os.geteuid() or not shutil.which("mount"):
        return False
    with tempfile.TemporaryDirectory() as place:
        if mount(Path(place), 1 << 20):
            return False
        unmount(Path(place))
    return True


@cache
def _may_divide() -> bool:
    if os.geteuid() or not shutil.which("ip"):
        return False
    name = f"{_TRIAL}{os.getpid()}"
    if run("ip", "netns", "add", name):
        return False
    return not run("ip", "netns", "delete", name)


def mount(place: Path, size: int) -> str:
    """A file system in memory of so many bytes; what went wrong, empty when nothing did."""
    return run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))


def unmount(place: Path) -> str:
    """Take it away, with everything in it; see ``mount``."""
    return run("umount", "--lazy", str(place))


def run(*command: str) -> str:
    """Run it; what went wrong, empty when nothing did."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if not done.returncode else f"{' '.join(command)}: {done.stderr.strip() or done.returncode}"
