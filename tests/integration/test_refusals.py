"""What the real server refuses, provoked: each number comes as the class and with the advice the table has for it."""

import asyncio
from dataclasses import replace

import pytest
import pytest_asyncio

from broker import (
    ApiError,
    BrokerError,
    ConsumerOptions,
    Expect,
    JetStreamNotEnabled,
    LimitsExceeded,
    StreamBroker,
    StreamFull,
    StreamOptions,
    StreamSource,
    SubjectTransform,
)
from broker.backends.nats import errors
from broker.server import NatsServer

pytestmark = [pytest.mark.nats, pytest.mark.timeout(60)]

STREAM = {"name": "T", "subjects": ["t.>"]}
PULL = {"ack_policy": "explicit"}
PUSH = PULL | {"deliver_subject": "push.here"}


def made(**config):
    return "STREAM.CREATE.T", STREAM | config


def consumer(stream="S", name="c", action="create", verb=None, **config):
    request = {"stream_name": stream, "config": {"name": name} | PULL | config, "action": action}
    return verb or f"CONSUMER.CREATE.{stream}.{name}", request


def mirror(**config):
    return "STREAM.CREATE.M", {"name": "M", "mirror": {"name": "S"} | config.pop("source", {})} | config


def sourcing(*sources, **config):
    return "STREAM.CREATE.T", {"name": "T", "sources": list(sources)} | config


MAPPED = {"src": "s.*", "dest": "x.{{wildcard(1)}}"}
BEYOND = {"src": "s.*", "dest": "x.{{wildcard(2)}}"}
FULL = {"durable_name": "c"}
BEYOND_THE_WILDCARDS = SubjectTransform("t.*", "t.{{wildcard(2)}}")

PROVOKED = {
    10003: ("STREAM.PURGE.S", {"seq": 2, "keep": 2}),
    10012: consumer(name="kept", action="update", ack_policy="none", durable_name="kept"),
    10014: ("CONSUMER.INFO.S.nobody", {}),
    10018: ("CONSUMER.DURABLE.CREATE.S.c", {"stream_name": "S", "config": PULL}),
    10017: ("CONSUMER.DURABLE.CREATE.S.c", {"stream_name": "S", "config": PULL | {"durable_name": "d"}}),
    10020: ("CONSUMER.CREATE.S", {"stream_name": "S", "config": PULL | FULL}),
    10025: ("STREAM.CREATE.T", {"name": 5}),
    10026: consumer(stream="ONE", name="second"),
    10031: mirror(sources=[{"name": "S"}]),
    10034: mirror(subjects=["m"]),
    10037: ("STREAM.MSG.GET.S", {"seq": 999}),
    10046: sourcing({"name": "SMALL"}, max_msg_size=10),
    10052: made(max_age=5),
    10056: ("STREAM.CREATE.OTHER", STREAM),
    10057: ("STREAM.MSG.DELETE.DENY", {"seq": 1}),
    10058: ("STREAM.CREATE.S", {"name": "S", "subjects": ["other"]}),
    10059: ("STREAM.INFO.NOWHERE", {}),
    10065: made(subjects=["s.a"]),
    10074: made(num_replicas=3),
    10079: consumer(**PUSH | {"deliver_subject": "push.*"}),
    10080: consumer(**PUSH, max_waiting=5),
    10081: consumer(**PUSH | {"deliver_subject": "s.back"}),
    10082: consumer(**PUSH | {"ack_policy": "none"}, max_ack_pending=5),
    10083: consumer(**PUSH, idle_heartbeat=5),
    10084: consumer(stream="WORK", ack_policy="none"),
    10086: consumer(rate_limit_bps=5),
    10088: consumer(idle_heartbeat=1_000_000_000),
    10089: consumer(flow_control=True),
    10094: consumer(deliver_policy="all", opt_start_seq=5),
    10095: consumer(sample_freq="often"),
    10099: consumer(stream="WORK", name="second"),
    10101: consumer(stream="QUEUE", deliver_policy="new"),
    10107: consumer(description="x" * 5000),
    10108: consumer(**PUSH, flow_control=True),
    10109: ("STREAM.PURGE.SEALED", {}),
    10110: ("STREAM.PURGE.DENY", {}),
    10115: consumer(max_expires=5),
    10116: consumer(max_deliver=1, backoff=[1, 2, 3]),
    10121: consumer(stream="LIMITED", max_ack_pending=50),
    10131: consumer(verb="CONSUMER.CREATE.S.c.s.a", filter_subject="s.b"),
    10133: made(num_replicas=-1),
    10135: consumer(metadata={"k": "x" * 140_000}),
    10136: consumer(filter_subject="s.a", filter_subjects=["s.b"]),
    10137: consumer(filter_subject="s.a", filter_subjects=["s.b"], verb="CONSUMER.CREATE.S.c.s.a"),
    10138: consumer(filter_subjects=["s.*", "s.a"]),
    10139: consumer(filter_subjects=["s.a", ""]),
    10140: sourcing({"name": "S"}, {"name": "S"}),
    10141: sourcing({"name": "a.b"}),
    10142: mirror(source={"name": "a.b"}),
    10143: mirror(first_seq=5),
    10144: sourcing({"name": "S", "filter_subject": "s.a", "subject_transforms": [MAPPED]}),
    10146: sourcing({"name": "S", "subject_transforms": [BEYOND]}),
    10147: sourcing({"name": "S", "subject_transforms": [MAPPED, MAPPED | {"src": "s.*"}]}),
    10148: consumer(name="kept", ack_wait=5_000_000_000, durable_name="kept"),
    10149: consumer(action="update"),
    10150: mirror(source={"filter_subject": "s.a", "subject_transforms": [MAPPED]}),
    10152: mirror(source={"subject_transforms": [MAPPED, MAPPED]}),
    10153: consumer(stream="LIMITED", max_ack_pending=5, inactive_threshold=90_000_000_000),
    10154: mirror(source={"subject_transforms": [BEYOND]}),
    10156: made(subject_transform=BEYOND | {"src": "t.*"}),
    10159: consumer(priority_policy="overflow"),
    10160: ("CONSUMER.UNPIN.S.kept", {"group": "jobs"}),
    10161: consumer(priority_policy="overflow", priority_groups=[""]),
    10162: consumer(priority_policy="overflow", priority_groups=["a b"]),
    10173: mirror(allow_msg_counter=True, discard="old"),
    10178: consumer(**PUSH, priority_policy="overflow", priority_groups=["jobs"]),
    10183: consumer(ack_wait=-5),
    10184: consumer(backoff=[-5]),
    10186: mirror(allow_msg_schedules=True, discard="old"),
    10187: sourcing({"name": "S"}, allow_msg_schedules=True, discard="old"),
    10196: consumer(priority_groups=["jobs"]),
    10198: mirror(allow_atomic=True),
    10204: ("CONSUMER.RESET.S.newest", {"seq": 1}),
}
"""Number -> the request that is refused with it."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api():
    async with NatsServer(sync_interval=None) as server, StreamBroker.connect(server.url) as sb:
        await sb.declare(
            StreamOptions("S", ["s.>"]),
            StreamOptions("SMALL", ["small"], max_msg_size=100),
            StreamOptions("ONE", ["one"], max_consumers=1),
            StreamOptions("DENY", ["deny"], deny_delete=True, deny_purge=True),
            StreamOptions("WORK", ["work.>"], retention="workqueue"),
            StreamOptions("QUEUE", ["queue.>"], retention="workqueue"),
            StreamOptions("SEALED", ["sealed"]),
        )
        await sb.streams.update(StreamOptions("SEALED", ["sealed"], sealed=True))
        await sb.enqueue("deny", 1)
        made_api = sb._streams._admin._api
        limits = {"max_ack_pending": 10, "inactive_threshold": 60_000_000_000}
        await made_api.call("STREAM.CREATE.LIMITED", {"name": "LIMITED", "consumer_limits": limits})
        for stream, name in (("ONE", "first"), ("WORK", "first"), ("S", "kept")):
            await sb.consumers.create(ConsumerOptions(durable=name, stream=stream))
        await sb.consumers.create(ConsumerOptions(durable="newest", stream="S", start="new"))
        yield made_api


@pytest.mark.parametrize("number", PROVOKED)
@pytest.mark.asyncio(loop_scope="module")
async def test_the_server_refuses_with_this_number(api, number):
    verb, request = PROVOKED[number]
    with pytest.raises(BrokerError) as caught:
        await api.call(verb, request)
    known = errors.REFUSALS.get(number)
    assert caught.value.err_code == number
    assert known is not None, "it is in no table"
    assert type(caught.value) is known.kind
    assert caught.value.code == known.code
    assert caught.value.advice == known.advice


@pytest_asyncio.fixture
async def sb():
    async with NatsServer(sync_interval=None) as server, StreamBroker.connect(server.url) as connected:
        await connected.declare(StreamOptions("S", ["s.>"], allow_msg_ttl=False, atomic=False, max_msg_size=2000))
        yield connected


async def test_sending_is_refused_by_number_too(sb):
    await sb.enqueue("s.a", 1)
    await sb.declare(StreamOptions("FULL", ["full"], max_msgs=1))
    await sb.enqueue("full", 1)
    attempts = {
        10054: sb.enqueue("s.a", b"x" * 3000),
        10060: sb.enqueue("s.a", 1, expect=Expect(stream="OTHER")),
        10070: sb.enqueue("s.a", 1, expect=Expect(last_msg_id="other")),
        10071: sb.enqueue("s.a", 1, expect=Expect(last_sequence=99)),
        10077: sb.enqueue("full", 2),
        10166: sb.enqueue("s.a", 1, ttl=5),
    }
    for number, attempt in attempts.items():
        with pytest.raises(BrokerError) as caught:
            await attempt
        known = errors.REFUSALS[number]
        assert (type(caught.value), caught.value.err_code) == (known.kind, number)
        assert caught.value.advice == known.advice


@pytest.mark.parametrize(
    ("number", "headers"),
    [
        (10165, {"Nats-TTL": "soon"}),
        (10168, {"Nats-Incr": "+1"}),
        (10174, {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1"}),
        (10188, {"Nats-Schedule": "@every 5s", "Nats-Schedule-Target": "s.b"}),
    ],
)
async def test_what_a_stream_was_not_declared_for_is_refused(sb, number, headers):
    from broker.contracts.headers import Headers  # noqa: PLC0415 - only here: callers may not send such names

    if number == 10165:
        await sb.declare(replace((await sb.streams.info("S")).config, allow_msg_ttl=True), ensure="update")
    reply = await sb._streams.call("s.a", b"", Headers(headers.items()), 5)
    from orjson import loads  # noqa: PLC0415 - as above

    error = errors.from_api(loads(reply.data)["error"])
    assert (error.err_code, type(error)) == (number, errors.REFUSALS[number].kind)


@pytest_asyncio.fixture
async def account(request):
    """A broker as a user of an account that has the JetStream of the test's parameter, if any."""
    own = f"jetstream: {request.param}, " if request.param else ""
    config = f"""accounts {{
        GAME {{ {own}users: [ {{ user: player, password: secret }} ] }}
        OTHER {{ jetstream: enabled, users: [ {{ user: other, password: secret }} ] }} }}"""
    login = {"user": "other", "pass": "secret"}
    async with (
        NatsServer(sync_interval=None, config=config, login=login) as server,
        StreamBroker.connect(server.url, user="player", password="secret") as connected,
    ):
        yield connected


@pytest.mark.parametrize("account", [None], indirect=True)
async def test_an_account_without_streams_says_so(account):
    with pytest.raises(JetStreamNotEnabled) as caught:
        await asyncio.wait_for(account.declare(StreamOptions("S", ["s"])), 15)
    assert caught.value.err_code == 10039


@pytest.mark.parametrize(
    "account", ["{ max_streams: 1, max_consumers: 1, max_file: 1MB, max_bytes_required: true }"], indirect=True
)
async def test_an_accounts_limits_are_told_apart(account):
    sized = StreamOptions("S", ["s.>"], max_bytes=1 << 18)
    for options, kind, numbers in (
        (replace(sized, max_bytes=None), LimitsExceeded, {10113}),
        (replace(sized, max_bytes=1 << 30), StreamFull, {10002, 10047}),
    ):
        with pytest.raises(kind) as caught:
            await account.declare(options)
        assert caught.value.err_code in numbers
    await account.declare(sized)
    await account.consumers.create(ConsumerOptions(durable="a", stream="S"))
    with pytest.raises(LimitsExceeded) as caught:
        await account.declare(StreamOptions("T", ["t.>"], max_bytes=1 << 18))
    assert caught.value.err_code == 10027
    with pytest.raises(LimitsExceeded) as caught:
        await account.consumers.create(ConsumerOptions(durable="b", stream="S"))
    assert caught.value.err_code == 10026


async def test_the_verbs_raise_what_the_table_says(sb):
    for number, attempt in (
        (10065, sb.declare(StreamOptions("T", ["s.a"]))),
        (
            10156,
            sb.declare(StreamOptions("T", ["t.*"], subject_transform=SubjectTransform("t.*", "t.{{wildcard(2)}}"))),
        ),
        (10074, sb.declare(StreamOptions("T", ["t.*"], replicas=3))),
        (10140, sb.declare(StreamOptions("T", sources=[StreamSource("S"), StreamSource("S")]))),
        (10074, sb.consumers.create(ConsumerOptions(durable="c", stream="S", replicas=3))),
        (10138, sb.consumers.create(ConsumerOptions(durable="c", stream="S", filters=["s.*", "s.a"]))),
    ):
        with pytest.raises(ApiError) as caught:
            await attempt
        assert caught.value.err_code == number
        assert caught.value.advice == errors.REFUSALS[number].advice
