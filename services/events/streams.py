"""The streams and the names of the workers' positions in them, declared in this one place.

A stream captures exact subjects only: ``battle.*`` would also store thirty frames a second of every room.
"""

from __future__ import annotations

import os
from typing import Final

from broker import StreamOptions
from services.events.subjects import BATTLE_SETTLE, LEADERBOARD_UPDATE

_REPLICAS: Final = int(os.environ.get("STREAM_REPLICAS", "1"))
"""Copies in a cluster: the deployment's choice, the same for every service that declares these streams."""

# "limits", not "workqueue": the server forgets the keys of acked messages of a work queue when it restarts.
# "new" refuses when full: a room that must wait is better than the oldest unpaid battle silently gone.
SETTLEMENTS: Final = StreamOptions(
    name="SETTLEMENTS",
    subjects=(BATTLE_SETTLE,),
    retention="limits",
    discard="new",
    max_bytes=256 << 20,
    duplicate_window=600.0,
    replicas=_REPLICAS,
    description="results of battles, once each",
)
LEADERBOARD: Final = StreamOptions(
    name="LEADERBOARD",
    subjects=(LEADERBOARD_UPDATE,),
    retention="limits",
    discard="new",
    max_bytes=256 << 20,
    duplicate_window=600.0,
    replicas=_REPLICAS,
    description="points for players, once per event",
)

SETTLE_WORKER: Final = "settle-worker"
SETTLE_QUEUE: Final = "settle-queue"
STANDINGS_WORKER: Final = "standings-worker"
