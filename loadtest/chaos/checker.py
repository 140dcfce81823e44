"""``python -m loadtest.chaos.checker DIRECTORY``: the verdict on a run from what lies in its directory, nothing else.

Writes ``verdict.json`` there. Exit code 0: every promise held; 1: one did not; 2: the run is void.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from loadtest.chaos.evidence import gather
from loadtest.chaos.verdict import Verdict, judge

if TYPE_CHECKING:
    from collections.abc import Sequence

BROKEN: Final = 1
VOID: Final = 2
_FILE: Final = "verdict.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos.checker", description=__doc__)
    parser.add_argument("directory", type=Path, help="of the run")
    directory: Path = parser.parse_args(arguments).directory
    verdict = judge(gather(directory))
    (directory / _FILE).write_bytes(msgspec.json.format(msgspec.json.encode(verdict)))
    print(verdict.sentence)
    if verdict.broken:
        return BROKEN
    return VOID if verdict.void else 0


def verdict_of(directory: Path) -> Verdict:
    """What the checker wrote."""
    return msgspec.json.decode((directory / _FILE).read_bytes(), type=Verdict)


if __name__ == "__main__":
    sys.exit(main())
