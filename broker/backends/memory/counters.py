"""Counters as a server stores them: the newest message of a subject holds the sum."""

from __future__ import annotations

import json


def counter_body(value: int) -> bytes:
    """What is stored."""
    return json.dumps({"val": str(value)}, separators=(",", ":")).encode()


def counter_of(body: bytes) -> int:
    """What was stored."""
    return int(json.loads(body)["val"])
