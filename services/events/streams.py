"""The streams, declared in this one place.

A stream captures exact subjects only: ``battle.*`` would also store thirty frames a second of every room.
"""

from __future__ import annotations

import os
from typing import Final

from broker import StreamOptions
from services.events.subjects import AUDIT_RECORDS, BATTLE_SETTLE, LEADERBOARD_UPDATE, PLAYERS_MAIL

REPLICAS: Final = int(os.environ.get("STREAM_REPLICAS", "1"))
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
    replicas=REPLICAS,
    description="results of battles, once each",
)
LEADERBOARD: Final = StreamOptions(
    name="LEADERBOARD",
    subjects=(LEADERBOARD_UPDATE,),
    retention="limits",
    discard="new",
    max_bytes=256 << 20,
    duplicate_window=600.0,
    replicas=REPLICAS,
    description="points for players, once per event",
)

MAIL: Final = StreamOptions(
    name="MAIL",
    subjects=(PLAYERS_MAIL,),
    retention="limits",
    discard="new",
    max_bytes=256 << 20,
    duplicate_window=600.0,
    replicas=REPLICAS,
    description="mail for players, once per key",
)
AUDIT: Final = StreamOptions(
    name="AUDIT",
    subjects=(AUDIT_RECORDS,),
    retention="limits",
    discard="new",
    max_bytes=256 << 20,
    duplicate_window=600.0,
    replicas=REPLICAS,
    # A record does not end by itself, and none is taken out alone, whoever asks.
    allow_msg_ttl=False,
    deny_delete=True,
    description="what was done and denied, and by whom",
)
ALL_STREAMS: Final = (SETTLEMENTS, LEADERBOARD, MAIL, AUDIT)
