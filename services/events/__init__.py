"""What services say to each other: subjects, bodies and streams. The only thing of each other that services import."""

from services.events.bodies import (
    BattleEnded,
    Command,
    Frame,
    FrameHeader,
    LeaderboardUpdate,
    PlayerResult,
    PlayerState,
)
from services.events.streams import LEADERBOARD, SETTLE_QUEUE, SETTLE_WORKER, SETTLEMENTS, STANDINGS_WORKER
from services.events.subjects import (
    BATTLE_SETTLE,
    LEADERBOARD_UPDATE,
    battle_command,
    battle_commands,
    battle_state,
    commanding_player,
)

__all__ = [
    "BATTLE_SETTLE",
    "LEADERBOARD",
    "LEADERBOARD_UPDATE",
    "SETTLEMENTS",
    "SETTLE_QUEUE",
    "SETTLE_WORKER",
    "STANDINGS_WORKER",
    "BattleEnded",
    "Command",
    "Frame",
    "FrameHeader",
    "LeaderboardUpdate",
    "PlayerResult",
    "PlayerState",
    "battle_command",
    "battle_commands",
    "battle_state",
    "commanding_player",
]
