"""``python -m services.mail``: one mail worker; SIGTERM drains it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from services.database import add_database_option, opened
from services.events import AUDIT, MAIL, MAIL_CONSUMER
from services.mail.mailbox import Mailbox
from services.mail.tables import METADATA
from services.mail.worker import MailWorker
from services.process import run_process
from services.worker import run_worker, worker_parser

if TYPE_CHECKING:
    import argparse
    import asyncio


def _options() -> argparse.Namespace:
    parser = worker_parser("mail", __doc__, MAIL_CONSUMER)
    add_database_option(parser, "mail.db")
    return parser.parse_args()


async def _serve(options: argparse.Namespace, stop: asyncio.Event) -> None:
    async with opened(options.database, METADATA) as (inbox, outbox):
        mailbox = Mailbox(outbox)
        await run_worker(
            options,
            stop,
            lambda broker: MailWorker(broker, mailbox, inbox, outbox, ack_wait=options.ack_wait, ensure=options.ensure),
            name="mail",
            streams=(MAIL, AUDIT),
            ready="mail ready",
        )


def main() -> int:
    """Run the process; its exit code."""
    options = _options()
    return run_process(lambda stop: _serve(options, stop), name="mail", lifeline=options.lifeline)


if __name__ == "__main__":
    sys.exit(main())
