"""Seeds that found something. Each has a test of its own as well: what a seed means changes with the model."""

from __future__ import annotations

from typing import Final

REGRESSIONS: Final = {
    4249: "a parked message replaced while a lane's book was read was missed, and its key went on without it",
}
