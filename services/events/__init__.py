"""What services say to each other: subjects, bodies and streams. The only thing of each other that services import."""

from services.events.bodies import (
    BattleEnded,
    Command,
    CommandBatch,
    LeaderboardUpdate,
    PlayerResult,
)
from services.events.buckets import TokenBucket
from services.events.limits import (
    BATCH_BYTES,
    BATCH_COMMANDS,
    COMMAND_BURST,
    COMMAND_BYTES,
    COMMAND_RATE,
    COMMAND_WINDOW,
    PER_TICK,
)
from services.events.numbering import CommandNumbers
from services.events.streams import LEADERBOARD, SETTLE_QUEUE, SETTLE_WORKER, SETTLEMENTS, STANDINGS_WORKER
from services.events.subjects import (
    BATTLE_COMMANDS,
    BATTLE_SETTLE,
    BATTLE_STATES,
    LEADERBOARD_UPDATE,
    battle_batch,
    battle_command,
    battle_state,
    command_sender,
    gateway_input,
    gateway_inputs,
    gateway_output,
)
from services.events.views import BATTLE, PLAYER, BattleState, PlayerState, View

__all__ = [
    "BATCH_BYTES",
    "BATCH_COMMANDS",
    "BATTLE",
    "BATTLE_COMMANDS",
    "BATTLE_SETTLE",
    "BATTLE_STATES",
    "COMMAND_BURST",
    "COMMAND_BYTES",
    "COMMAND_RATE",
    "COMMAND_WINDOW",
    "LEADERBOARD",
    "LEADERBOARD_UPDATE",
    "PER_TICK",
    "PLAYER",
    "SETTLEMENTS",
    "SETTLE_QUEUE",
    "SETTLE_WORKER",
    "STANDINGS_WORKER",
    "BattleEnded",
    "BattleState",
    "Command",
    "CommandBatch",
    "CommandNumbers",
    "LeaderboardUpdate",
    "PlayerResult",
    "PlayerState",
    "TokenBucket",
    "View",
    "battle_batch",
    "battle_command",
    "battle_state",
    "command_sender",
    "gateway_input",
    "gateway_inputs",
    "gateway_output",
]
