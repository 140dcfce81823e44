"""``python -m loadtest.chaos.checker DIRECTORY``: the verdict on a run from what lies in its directory, nothing else.

Writes ``judged.json`` there. Exit code 0: every promise held; 1: one did not; 2: the run is void.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loadtest.chaos.evidence import gather
from loadtest.chaos.report import Judged, save_judged
from loadtest.chaos.timeline import timeline
from loadtest.chaos.verdict import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

BROKEN: Final = 1
VOID: Final = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Check; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.chaos.checker", description=__doc__)
    parser.add_argument("directory", type=Path, help="of the run")
    directory: Path = parser.parse_args(arguments).directory
    found = gather(directory)
    verdict = judge(found)
    save_judged(directory, Judged(verdict, timeline(found)))
    print(verdict.sentence)
    if verdict.broken:
        return BROKEN
    return VOID if verdict.void else 0


if __name__ == "__main__":
    sys.exit(main())
