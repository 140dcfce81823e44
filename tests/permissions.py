"""Who may do what on the shipped configuration: the operations a role needs, and what it must not be able to do.

``tests/integration/test_permissions.py`` tries every one of them on a real server; docs/permissions.md is this table.
"""

from typing import NamedTuple

from tests.deployment import ROLES

PLAYER = "session-1"
MINE, OTHERS = "room-1-p1", "room-1-p2"
STREAMS = {
    "SETTLEMENTS": "settle-worker",
    "LEADERBOARD": "standings-worker",
    "MAIL": "mail-worker",
    "AUDIT": "audit-worker",
}
WORKERS = {"settlement": "SETTLEMENTS", "leaderboard": "LEADERBOARD", "mail": "MAIL", "audit": "AUDIT"}
"""The roles that take stored messages, each of one stream."""


class Denied(NamedTuple):
    """What a role must not be able to do: what it would come to, and how it would be tried."""

    role: str
    what: str
    verb: str
    subject: str


class Needed(NamedTuple):
    """What a role's service does, by the name of the test's function that does it."""

    role: str
    what: str
    how: str


def _next(stream):
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{STREAMS[stream]}"


def _ack(stream):
    return f"$JS.ACK.{stream}.{STREAMS[stream]}.1.1.1.1.0"


def _publish(role, subjects):
    return [Denied(role, what, "publish", subject) for what, subject in subjects.items()]


def _subscribe(role, subjects):
    return [Denied(role, what, "subscribe", subject) for what, subject in subjects.items()]


def _everybody(role):
    """What no service may."""
    yield from _subscribe(role, HEARD)
    own = WORKERS.get(role)
    others = [each for each in ROLES if each != role]
    yield from _subscribe(role, {f"hear the replies of {each}": f"_INBOX_{each}.>" for each in others})
    yield from _publish(
        role,
        {
            f"answer in another's place, to {each}": f"_INBOX_{each}.x"
            for each in others
            if (role, each) != ("room", "gateway")
        },
    )
    yield from _publish(role, MEDDLED)
    for stream, consumer in STREAMS.items():
        if stream != own:
            yield from _publish(
                role,
                {
                    f"settle messages of {stream}": _ack(stream),
                    f"write dead letters of {stream}": f"gamebroker.dead.{stream}.{consumer}",
                },
            )
    if role != "admin":
        yield from _publish(role, MANAGED)
        yield from _publish(role, {f"take messages of {stream}": _next(stream) for stream in STREAMS if stream != own})


HEARD = {
    "hear everything": ">",
    "hear everything of two words": "*.*",
    "hear everything of three words": "*.*.*",
    "hear everybody's replies": "_INBOX.>",
    "hear the servers' events": "$SYS.>",
    "hear what is asked of JetStream": "$JS.API.>",
    "hear what is settled": "$JS.ACK.>",
    "hear keys change": "$KV.>",
    "hear dead letters, and what lanes say": "gamebroker.>",
    "hear everything of battles": "battle.>",
    "hear results on their way": "battle.settle",
    "hear points on their way": "leaderboard.update",
    "hear mail on its way": "mail.*",
    "hear audit records on their way": "audit.*",
    "pose as a service's endpoint": "$SRV.>",
}
MEDDLED = {
    "ask the servers about everybody": "$SYS.REQ.SERVER.PING.CONNZ",
    "ask the servers about themselves": "$SYS.REQ.SERVER.PING.VARZ",
    "ask about its account": "$SYS.REQ.ACCOUNT.GAME.CONNZ",
    "change an account": "$SYS.REQ.CLAIMS.UPDATE",
    "have a connection cut": "$SYS.REQ.SERVER.x.KICK",
    "make up an advisory": "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.SETTLEMENTS.settle-worker",
    "write a key": "$KV.settings.rewards",
    "tell lanes something": "gamebroker.lanes.SETTLEMENTS.settle-worker",
    "park a message": "gamebroker.parked.SETTLEMENTS.settle-worker.x",
    "have a message tried again": "gamebroker.again.SETTLEMENTS.settle-worker.x",
}
MANAGED = {
    "make a stream": "$JS.API.STREAM.CREATE.SPY",
    "delete a stream": "$JS.API.STREAM.DELETE.SETTLEMENTS",
    "purge a stream": "$JS.API.STREAM.PURGE.SETTLEMENTS",
    "purge the dead letters": "$JS.API.STREAM.PURGE.GAMEBROKER_DEAD_LETTERS",
    "change a stream": "$JS.API.STREAM.UPDATE.SETTLEMENTS",
    "copy a stream away": "$JS.API.STREAM.SNAPSHOT.SETTLEMENTS",
    "put another stream in its place": "$JS.API.STREAM.RESTORE.SETTLEMENTS",
    "have a stream change its leader": "$JS.API.STREAM.LEADER.STEPDOWN.SETTLEMENTS",
    "have the cluster change its leader": "$JS.API.META.LEADER.STEPDOWN",
    "throw a node out": "$JS.API.SERVER.REMOVE",
    "remove an account's streams": "$JS.API.ACCOUNT.PURGE.GAME",
    "make a consumer that sends it everything": "$JS.API.CONSUMER.CREATE.SETTLEMENTS.spy",
    "make one with a filter": "$JS.API.CONSUMER.CREATE.SETTLEMENTS.spy.battle.settle",
    "make one without a name": "$JS.API.CONSUMER.CREATE.SETTLEMENTS",
    "make one the old way": "$JS.API.CONSUMER.DURABLE.CREATE.SETTLEMENTS.spy",
    "make one on the dead letters": "$JS.API.CONSUMER.CREATE.GAMEBROKER_DEAD_LETTERS.spy",
    "delete a consumer": "$JS.API.CONSUMER.DELETE.SETTLEMENTS.settle-worker",
    "pause a consumer": "$JS.API.CONSUMER.PAUSE.SETTLEMENTS.settle-worker",
    "set a consumer back": "$JS.API.CONSUMER.RESET.SETTLEMENTS.settle-worker",
    "take a consumer from who has it": "$JS.API.CONSUMER.UNPIN.SETTLEMENTS.settle-worker",
    "read a stored result": "$JS.API.STREAM.MSG.GET.SETTLEMENTS",
    "read a stored result directly": "$JS.API.DIRECT.GET.SETTLEMENTS",
    "read the last result directly": "$JS.API.DIRECT.GET.SETTLEMENTS.battle.settle",
    "read a dead letter": "$JS.API.STREAM.MSG.GET.GAMEBROKER_DEAD_LETTERS",
    "remove a result": "$JS.API.STREAM.MSG.DELETE.SETTLEMENTS",
    "remove an audit record": "$JS.API.STREAM.MSG.DELETE.AUDIT",
}


def _worker(role, own):
    """Of the other workers' streams nothing; of its own no more than its consumer."""
    yield from _publish(
        role,
        {
            f"take from another consumer of {own}": f"$JS.API.CONSUMER.MSG.NEXT.{own}.other",
        },
    )
    yield from _publish(
        role,
        {
            f"settle for another consumer of {own}": f"$JS.ACK.{own}.other.1.1.1.1.0",
        },
    )
    yield from _publish(
        role,
        {
            "make up a result": "battle.settle",
            "play a frame": "battle.room-1.state",
        },
    )
    if role != "settlement":
        yield from _publish(
            role,
            {
                "give points": "leaderboard.update",
                "send mail": "mail.ann",
            },
        )
    if role == "audit":
        yield from _publish(
            role,
            {
                "write its own records": "audit.settlement",
            },
        )


DENIED = [
    *(denied for role in ROLES for denied in _everybody(role)),
    *(denied for role, own in WORKERS.items() for denied in _worker(role, own)),
    *_publish(
        "room",
        {
            "send a player's command": f"battle.room-1.cmd.{MINE}",
            "send a gateway's commands": "battle.room-1.cmd.@gateway-1",
            "give points": "leaderboard.update",
            "send mail": "mail.ann",
            "write an audit record": "audit.settlement",
            "show a player a view": f"gateway.gateway-1.out.room-1.{MINE}",
        },
    ),
    *_subscribe(
        "room",
        {
            "hear a gateway's players": "gateway.*.in.*.*",
            "hear a player's view": "gateway.*.out.*.*",
        },
    ),
    *_publish(
        "gateway",
        {
            "play a frame": "battle.room-1.state",
            "store a result": "battle.settle",
            "send commands in another gateway's name": "battle.room-1.cmd.@gateway-2",
            "send a player's command itself": f"battle.room-1.cmd.{MINE}",
            "show another gateway's players a view": "gateway.gateway-2.out.room-1.p",
        },
    ),
    *_subscribe(
        "gateway",
        {
            "hear another gateway's players": "gateway.gateway-2.in.*.*",
            "hear all commands": "battle.*.cmd.*",
            "answer questions for snapshots": "battle.*.state.snapshot",
        },
    ),
    *_publish(
        "dashboard",
        {
            "play a frame": "battle.room-1.state",
            "send a command": f"battle.room-1.cmd.{MINE}",
            "store a result": "battle.settle",
        },
    ),
    *_subscribe(
        "dashboard",
        {
            "hear commands": "battle.*.cmd.*",
            "hear players": "gateway.>",
        },
    ),
    *_publish(
        "admin",
        {
            "play a frame": "battle.room-1.state",
            "send a command": f"battle.room-1.cmd.{MINE}",
        },
    ),
    *_subscribe(
        "admin",
        {
            "hear frames": "battle.*.state",
            "hear commands": "battle.*.cmd.*",
        },
    ),
    *_publish(
        PLAYER,
        {
            "play a frame": "battle.room-1.state",
            "send another player's command": f"battle.room-1.cmd.{OTHERS}",
            "send another player's command by the gateway": f"gateway.gateway-1.in.room-1.{OTHERS}",
            "play in another room": f"battle.room-2.cmd.{MINE}",
            "play in another room by the gateway": f"gateway.gateway-1.in.room-2.{MINE}",
            "pose as a gateway": "battle.room-1.cmd.@gateway-1",
            "show another player a view": f"gateway.gateway-1.out.room-1.{OTHERS}",
            "ask a room for snapshots": "battle.room-1.state.snapshot",
            "store a result": "battle.settle",
            "give itself points": "leaderboard.update",
            "send itself mail": "mail.room-1-p1",
            "ask JetStream anything": "$JS.API.INFO",
            "take results": _next("SETTLEMENTS"),
            "settle results": _ack("SETTLEMENTS"),
            "answer a gateway": "_INBOX_gateway.x",
            "ask the servers": "$SYS.REQ.SERVER.PING",
            "ask about its account": "$SYS.REQ.ACCOUNT.PLAYERS.CONNZ",
            "make a consumer": "$JS.API.CONSUMER.CREATE.SETTLEMENTS.spy",
            "purge a stream": "$JS.API.STREAM.PURGE.SETTLEMENTS",
            "read a stored result": "$JS.API.DIRECT.GET.SETTLEMENTS",
            "write a dead letter": "gamebroker.dead.SETTLEMENTS.settle-worker",
            "write an audit record": "audit.settlement",
            "write a key": "$KV.settings.rewards",
            "answer another player": "_INBOX.x",
        },
    ),
    *_subscribe(
        PLAYER,
        {
            "see all rooms": "battle.*.state",
            "see another room": "battle.room-2.state",
            "see another player's view": f"gateway.gateway-1.out.room-1.{OTHERS}",
            "see all players' views": "gateway.gateway-1.out.*.*",
            "hear commands": "battle.room-1.cmd.*",
            "hear the gateway's players": "gateway.gateway-1.in.*.*",
            "hear everything": ">",
            "hear everything of three words": "*.*.*",
            "hear everything of battles": "battle.>",
            "hear the servers' events": "$SYS.>",
            "hear everybody's replies": "_INBOX.>",
            **{f"hear the replies of {each}": f"_INBOX_{each}.>" for each in ROLES},
        },
    ),
]

NEEDED = [
    Needed("room", "send a frame, which gateways see", "frame_to_gateway"),
    Needed("room", "send a frame, which its own players see", "frame_to_player"),
    Needed("room", "take a gateway's commands", "commands_of_gateway"),
    Needed("room", "take a player's own command", "command_of_player"),
    Needed("room", "answer a gateway's question for a snapshot", "snapshot"),
    Needed("room", "store a result, once", "store_result"),
    Needed("gateway", "take its players' commands", "player_to_gateway"),
    Needed("gateway", "show a player a view", "view_to_player"),
    *(
        Needed(role, what, how)
        for role in WORKERS
        for what, how in (
            ("take messages of its consumer, settle them, confirmed", "work"),
            ("give a message back, and take it again", "give_back"),
            ("prolong the wait for a message in hand", "prolong"),
            ("write a dead letter and terminate", "dead_letter"),
            ("write a reference to a message too large for a dead letter", "large_dead_letter"),
        )
    ),
    Needed("settlement", "give points", "give_points"),
    Needed("settlement", "send mail", "send_mail"),
    *(Needed(role, "write an audit record", "audit_record") for role in ("settlement", "leaderboard", "mail")),
    Needed("dashboard", "list and describe streams and consumers", "describe"),
    Needed("dashboard", "see frames", "dashboard_frames"),
    Needed("dashboard", "hear JetStream's advisories", "advisories"),
    Needed("admin", "make streams and consumers", "declare"),
    Needed("admin", "list, replay and discard dead letters", "dead_letters"),
    Needed("admin", "purge and delete a stream", "delete"),
    *(Needed(role, "ask what itself may do", "own_permissions") for role in ROLES),
    Needed(PLAYER, "send a command by the gateway", "player_to_gateway"),
    Needed(PLAYER, "send a command to its room", "command_of_player"),
    Needed(PLAYER, "see its room's frames", "frame_to_player"),
    Needed(PLAYER, "see its view from the gateway", "view_to_player"),
]

HEAD = """# Who may do what

Every line is tried on a real server with the shipped configuration (`deploy/nats/`, by TLS):
`tests/integration/test_permissions.py`. What is denied is told by name (`PermissionDenied`) and changes nothing.
`session-1` is a player whose client is a NATS client, in room `room-1` and by gateway `gateway-1`. What permissions
cannot close is in [SECURITY.md](../SECURITY.md).

"""


def page():
    """docs/permissions.md."""
    total = f"{len(NEEDED)} operations are needed and work, {len(DENIED)} are denied.\n"
    nobody = _common(ROLES)
    workers = _common([role for role in ROLES if role != "admin"]) - nobody
    parts = [HEAD, total, "\n## What no service may\n\n", *_rows(nobody)]
    parts += ["\n## What no service but admin may\n\n", *_rows(workers)]
    for role in (*ROLES, PLAYER):
        own = {each[1:] for each in DENIED if each.role == role} - (set() if role == PLAYER else nobody | workers)
        parts += [f"\n## {role}\n\n", *_rows(own, [each.what for each in NEEDED if each.role == role])]
    return "".join(parts)


def _common(roles):
    """What is denied to all of them."""
    return set.intersection(*({each[1:] for each in DENIED if each.role == role} for role in roles))


def _rows(denied, needed=()):
    yield "| | may it | subject |\n|---|---|---|\n"
    yield from (f"| {what} | yes | |\n" for what in needed)
    in_order = dict.fromkeys(each[1:] for each in DENIED if each[1:] in denied)
    yield from (f"| {what} | no | {verb} `{subject}` |\n" for what, verb, subject in in_order)
