"""The workers' positions in the streams, declared in this one place: whoever may only bind finds what others made."""

from __future__ import annotations

from typing import Final

from broker import ConsumerOptions
from services.events.streams import AUDIT, LEADERBOARD, MAIL, SETTLEMENTS
from services.events.subjects import AUDIT_RECORDS, BATTLE_SETTLE, LEADERBOARD_UPDATE, PLAYERS_MAIL

SETTLE_WORKER: Final = "settle-worker"
SETTLE_QUEUE: Final = "settle-queue"
STANDINGS_WORKER: Final = "standings-worker"

SETTLE_CONSUMER: Final = ConsumerOptions(
    durable=SETTLE_WORKER, queue=SETTLE_QUEUE, filters=(BATTLE_SETTLE,), stream=SETTLEMENTS.name, max_ack_pending=100
)
STANDINGS_CONSUMER: Final = ConsumerOptions(
    durable=STANDINGS_WORKER, queue=STANDINGS_WORKER, filters=(LEADERBOARD_UPDATE,), stream=LEADERBOARD.name
)
MAIL_CONSUMER: Final = ConsumerOptions(
    durable="mail-worker", queue="mail-worker", filters=(PLAYERS_MAIL,), stream=MAIL.name
)
AUDIT_CONSUMER: Final = ConsumerOptions(
    durable="audit-worker", queue="audit-worker", filters=(AUDIT_RECORDS,), stream=AUDIT.name
)
ALL_CONSUMERS: Final = (SETTLE_CONSUMER, STANDINGS_CONSUMER, MAIL_CONSUMER, AUDIT_CONSUMER)
