"""``python -m services.audit``: one audit worker; ``python -m services.audit verify``: is every chain whole?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from services.audit.chain import BrokenChain, Head
from services.audit.journal import AuditJournal
from services.audit.tables import METADATA
from services.audit.worker import AuditWorker
from services.database import add_database_option, opened
from services.events import AUDIT, AUDIT_CONSUMER
from services.process import run_process
from services.worker import run_worker, worker_parser

if TYPE_CHECKING:
    import argparse
    import asyncio

BROKEN = 2
"""Exit code of a verification that found a broken chain; 1: it could not look."""


def _options() -> argparse.Namespace:
    parser = worker_parser("audit", __doc__, AUDIT_CONSUMER)
    parser.add_argument(
        "verb", nargs="?", choices=("work", "verify"), default="work", help="default %(default)s; verify asks no server"
    )
    add_database_option(parser, "audit.db")
    parser.add_argument(
        "--anchors",
        type=Path,
        default=None,
        metavar="FILE",
        help="for verify: what it printed earlier, kept where nobody who writes the database can write",
    )
    return parser.parse_args()


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    async with opened(options.database, METADATA) as (inbox, _):
        journal = AuditJournal(inbox.engine)
        await run_worker(
            options,
            stop,
            lambda broker: AuditWorker(broker, journal, inbox, ack_wait=options.ack_wait, ensure=options.ensure),
            name="audit",
            streams=(AUDIT,),
            ready="audit ready",
        )


async def _verify(options: argparse.Namespace) -> int:
    anchors = [] if options.anchors is None else _anchors(options.anchors)
    async with opened(options.database, METADATA, create=False) as (inbox, _):
        try:
            heads = await AuditJournal(inbox.engine).verify(anchors)
        except BrokenChain as broken:
            print(f"broken: {broken}", flush=True)
            return BROKEN
    for head in heads:
        print(head, flush=True)
    return 0


def _anchors(path: Path) -> list[Head]:
    try:
        return [Head.parse(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as exc:
        raise OSError(f"{path} is not what verify prints: {exc}") from exc


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    if options.verb == "verify":
        return run_process(lambda _: _verify(options), name="audit", lifeline=options.lifeline)
    return run_process(lambda stop: _serve(options, stop), name="audit", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
