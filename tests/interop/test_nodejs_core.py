"""Messages, requests and their errors between nats.js and us."""

import pytest

from broker import NoResponders, RemoteError
from broker.testing.waiting import eventually
from tests.interop.nodejs import Refused, packed, unpacked

pytestmark = [pytest.mark.xdist_group("nodejs"), pytest.mark.nats, pytest.mark.timeout(300)]

TRAITS = [["X-Trait", "brave"], ["x-trait", "small"], ["X-Trait", "quick"], ["Lang", "de-DE; q=1:0"]]
"""Several values under one name, the name in two cases, and a value with a colon."""
EVERY_BYTE = bytes(range(256))


async def test_our_message_arrives_there_with_every_byte_and_header(sb, theirs):
    number = await theirs("subscribe", subject="chat.>")
    await sb.publish("chat.1", EVERY_BYTE, headers={"X-Trait": ["brave", "quick"], "Name": "Jörg"})
    (told,) = await eventually(lambda: theirs("taken", number=number), within=20)
    assert told["subject"] == "chat.1"
    assert unpacked(told["data"]) == EVERY_BYTE
    assert told["headers"] == [["X-Trait", "brave"], ["X-Trait", "quick"], ["Name", "Jörg"]]


async def test_their_message_arrives_here_with_every_byte_and_header(sb, theirs):
    got = []
    await sb.subscribe("chat.>", got.append)
    await sb.flush()
    await theirs("publish", subject="chat.1", data=packed(EVERY_BYTE), headers=TRAITS)
    await eventually(lambda: got, within=20)
    assert got[0].data == EVERY_BYTE
    assert sorted(got[0].headers.pairs) == sorted(map(tuple, TRAITS))
    assert sorted(got[0].headers.get_all("x-trait")) == ["brave", "quick", "small"]
    assert got[0].headers["lang"] == "de-DE; q=1:0"


async def test_a_queue_of_theirs_and_ours_gets_each_message_once(sb, theirs):
    ours = []
    await sb.subscribe("work", ours.append, queue="workers")
    number = await theirs("subscribe", subject="work", queue="workers")
    await sb.flush()
    for each in range(200):
        await sb.publish("work", each)

    async def done():
        return len(ours) + len(await theirs("taken", number=number)) == 200

    await eventually(done, within=20)
    got = [int(unpacked(each["data"])) for each in await theirs("taken", number=number)]
    assert sorted([each.json() for each in ours] + got) == list(range(200))
    assert ours
    assert got


async def test_a_request_of_ours_is_answered_there(sb, theirs):
    await theirs("respond", subject="rpc.echo")
    reply = await sb.request("rpc.echo", b"\0\xff", headers={"X-Trait": ["a", "b"]}, timeout=20)
    assert reply.data == b"\0\xff"
    assert reply.headers.get_all("X-Trait") == ["a", "b"]


async def test_a_request_of_theirs_is_answered_here(sb, theirs):
    await sb.respond("rpc.double", lambda msg: msg.json() * 2)
    await sb.flush()
    reply = await theirs("request", subject="rpc.double", data=packed(b"21"))
    assert unpacked(reply["data"]) == b"42"
    assert reply["headers"] == []


async def test_many_replies_to_one_request_come_from_both_sides(sb, theirs):
    await theirs("respond", subject="rpc.all")
    await sb.respond("rpc.all", lambda _: b"ours")
    await sb.flush()
    replies = [each.data async for each in sb.request_many("rpc.all", b"theirs", timeout=20, max_replies=2)]
    assert sorted(replies) == [b"ours", b"theirs"]


async def test_nobody_there_is_known_at_once_on_both_sides(sb, theirs):
    with pytest.raises(NoResponders):
        await sb.request("rpc.nobody", b"", timeout=20)
    with pytest.raises(Refused, match="no responders") as caught:
        await theirs("request", subject="rpc.nobody")
    assert caught.value.name == "RequestError"


async def test_what_our_responder_raises_is_a_service_error_there(sb, theirs):
    def refuse(_):
        raise KeyError("no such room")

    await sb.respond("rpc.join", refuse)
    await sb.flush()
    reply = await theirs("request", subject="rpc.join")
    assert dict(reply["headers"])["Gamebroker-Error"] == "KeyError"
    assert b"no such room" in unpacked(reply["data"])
    told = await theirs("request_service", subject="rpc.join")
    assert told == {"code": 500, "message": "KeyError: 'no such room'"}


async def test_an_error_of_their_service_is_raised_here(sb, theirs):
    await theirs("serve", name="join", code=409, message="the room is full", data=packed(b"8 of 8"))
    with pytest.raises(RemoteError, match=r"409.*the room is full") as caught:
        await sb.request("join", b"", timeout=20)
    assert caught.value.kind == "409"
    assert caught.value.subject == "join"
