"""What each process of a run is told when it is started."""

from __future__ import annotations

import argparse
from pathlib import Path

from services.process import add_process_options


def process_options(doc: str | None) -> argparse.Namespace:
    """``url``, ``grace``, ``lifeline`` as for every service, ``directory`` and ``name``."""
    parser = argparse.ArgumentParser(description=doc)
    add_process_options(parser)
    parser.add_argument("--directory", type=Path, required=True, help="of the run")
    parser.add_argument("--name", required=True, help="of this process")
    return parser.parse_args()
