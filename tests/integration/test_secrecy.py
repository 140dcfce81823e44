"""What we log in with is shown nowhere: not in a log, a repr, an exception or a traceback, whatever goes wrong.

The event loop runs in its debug mode and logs every callback with its arguments, so that what is only at hand is seen.
"""

import asyncio
import logging
import secrets
import ssl
import traceback

import nkeys
import pytest

from broker import BrokerError, ConnectError, StreamBroker, Unauthorized
from broker.exactly_once import Inbox
from broker.server import NatsServer, ServerError
from broker.testing.waiting import eventually
from tests.deployment import Secrets

pytestmark = pytest.mark.nats
USERS = """
authorization { users: [
  { user: ann, password: right-word },
  { user: narrow, password: right-word, permissions: { publish: { allow: ["mine"] }, subscribe: { allow: ["mine"] } } }
] }
"""


@pytest.fixture
def word():
    """Nobody else has it, so that it is found wherever it appears."""
    return f"s3cret{secrets.token_hex(12)}"


@pytest.fixture
def seen(caplog):
    """All that was logged, by anybody, as text."""
    caplog.set_level(logging.DEBUG)
    return lambda: "\n".join(
        f"{each.getMessage()} {each.args!r} {each.exc_text or ''} {each.exc_info or ''}" for each in caplog.records
    )


@pytest.fixture
async def watched(seen):
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    yield seen
    loop.set_debug(False)


def texts(error):
    """What is shown of an exception: itself and all it came from, with the code around."""
    yield from (repr(error), str(error), "".join(traceback.format_exception(error)))
    if isinstance(error, BrokerError):  # a driver's own errors carry its connection along
        yield repr(vars(error))
    for other in (error.__cause__, error.__context__):
        if other is not None:
            yield from texts(other)


def kept(word, *shown):
    """Not even its beginning or its end is there: what is long is shortened in the middle where it is shown."""
    return not any(piece in text for text in shown for piece in (word[:10], word[-10:]))


@pytest.fixture
async def server():
    async with NatsServer(config=USERS, login={"user": "ann", "pass": "right-word"}) as started:
        yield started


def seed_file(path):
    """A key of its own, and the file that holds it; the seed is the secret."""
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    path.write_bytes(seed)
    return seed.decode()


async def test_the_net_has_no_holes(watched, word):
    """What would be shown is seen: in a message, in its arguments, in a callback's, in a chain of exceptions."""
    logging.getLogger("broker.nats").debug("as %s", word)
    assert not kept(word, watched())
    other = f"other{word[::-1]}"
    asyncio.get_running_loop().call_soon(lambda _: None, other)
    await asyncio.sleep(0.01)
    assert not kept(other, watched())
    inner = ValueError(word)
    outer = ConnectError("plain")
    outer.__context__, outer.__suppress_context__ = inner, True
    assert not kept(word, *texts(outer))


WAYS = ("password", "token", "URL", "URL with a token", "URL, encoded", "seed", "malformed seed", "malformed URL")


@pytest.mark.parametrize("way", WAYS)
async def test_a_login_that_is_refused_is_shown_nowhere(server, watched, link, word, tmp_path, way):
    url, host = server.url, server.url.removeprefix("nats://")
    options = {
        "password": {"url": url, "user": "ann", "password": word},
        "token": {"url": url, "token": word},
        "URL": {"url": f"nats://ann:{word}@{host}"},
        "URL with a token": {"url": f"nats://{word}@{host}"},
        "URL, encoded": {"url": f"nats://ann:{word}%2F%40@{host}"},
        "seed": {"url": url, "creds": tmp_path / "creds"},
        "malformed seed": {"url": url, "creds": tmp_path / "creds"},
        "malformed URL": {"url": f"nats://ann:{word}/x@{host}"},
    }[way]
    if way == "seed":
        word = seed_file(tmp_path / "creds")
    elif way == "malformed seed":
        (tmp_path / "creds").write_text(f"S{word.upper()}")
        word = word.upper()
    connecting = StreamBroker.connect(**options, link=link, connect_timeout=3)
    with pytest.raises(BrokerError) as caught:
        await connecting
    assert kept(word, repr(connecting), *texts(caught.value), watched())


@pytest.mark.parametrize("way", ["password", "URL"])
async def test_a_server_that_is_away_hears_and_shows_nothing(watched, link, word, way):
    where = f"ann:{word}@" if way == "URL" else ""
    login = {"user": "ann", "password": word} if way == "password" else {}
    with pytest.raises(ConnectError) as caught:
        await StreamBroker.connect(f"nats://{where}127.0.0.1:1", link=link, connect_timeout=1, **login)
    assert kept(word, *texts(caught.value), watched())


async def test_a_server_nobody_vouches_for_gets_and_shows_nothing(tmp_path, watched, link, word):
    """TLS comes before the login."""
    ours, theirs = Secrets.make(tmp_path / "ours"), Secrets.make(tmp_path / "theirs")
    files = f'cert_file: "{theirs.directory / "node.pem"}", key_file: "{theirs.directory / "node.key"}"'
    context = ssl.create_default_context(cafile=str(ours.ca))
    async with NatsServer(config=f"debug: true, trace: true, tls {{ {files} }}") as server:
        with pytest.raises(ConnectError) as caught:
            await StreamBroker.connect(server.url, user="ann", password=word, tls=context, link=link, connect_timeout=3)
        assert kept(word, *texts(caught.value), watched(), server.log.read_text())


@pytest.mark.parametrize("where", ["options", "URL"])
async def test_one_that_is_let_in_shows_nothing_either(server, watched, link, where):
    word = "right-word"
    url = server.url.replace("nats://", f"nats://ann:{word}@") if where == "URL" else server.url
    login = {"user": "ann", "password": word} if where == "options" else {}
    connecting = StreamBroker.connect(url, link=link, name="shown", **login)
    async with connecting as sb:
        await sb.flush()
        backend = sb._backend
        parts = [sb, backend, backend._session, backend._session.link, *vars(backend).values(), connecting]
        parts += [*vars(backend._session).values(), *vars(backend._session.link).values(), sb.stats, sb.status]
        assert kept(word, *map(repr, parts))
        with pytest.raises(BrokerError) as caught:
            await sb.request("nobody.listens", b"")
        assert kept(word, *texts(caught.value))
        await server.restart()
        await eventually(lambda: sb.stats.reconnects == 1, 15)
    assert kept(word, watched())


async def test_one_whose_login_is_taken_away_while_connected_shows_nothing(server, watched, link):
    word = "right-word"
    async with StreamBroker.connect(server.url, user="ann", password=word, link=link) as sb:
        await server.reload("authorization { users: [{ user: bob, password: other }] }")
        await eventually(lambda: sb.status == "unauthorized", 15)
        with pytest.raises(Unauthorized) as caught:
            await sb.publish("a", b"")
        assert kept(word, *texts(caught.value), repr(sb))
    assert kept(word, watched())


async def test_one_that_may_do_little_shows_nothing_when_it_tries(server, watched, link):
    word = "right-word"
    async with StreamBroker.connect(server.url, user="narrow", password=word, link=link) as sb:
        with pytest.raises(BrokerError) as caught:
            await sb.request("elsewhere", b"", timeout=1)
        assert kept(word, *texts(caught.value), repr(sb))
    assert kept(word, watched())


@pytest.mark.parametrize("mistake", ["{word}", "{word}, bogus: 1", '"{word}'])
async def test_a_server_that_does_not_start_shows_nothing_of_its_configuration(watched, word, mistake):
    text = f"authorization {{ user: a, password: {mistake.format(word=word)}"
    server = NatsServer(config=text if mistake == "{word}" else text + " }")
    assert kept(word, repr(server), repr(server.settings))
    with pytest.raises(ServerError) as caught:
        await server.start()
    assert kept(word, *texts(caught.value), watched())


@pytest.mark.parametrize("where", ["@127.0.0.1:1/x", "@127.0.0.1:port/x", "@[h/x", "@h:1:2/x", ""])
@pytest.mark.parametrize("scheme", ["postgresql://u:", "nonsense://u:", "u:"])
async def test_a_database_that_cannot_be_reached_shows_nothing(watched, word, scheme, where):
    with pytest.raises(BrokerError) as caught:
        await used(f"{scheme}{word}{where}")
    assert kept(word, *texts(caught.value), watched())


async def used(url):
    inbox = Inbox(url)
    try:
        await inbox.create()
    finally:
        await inbox.aclose()


async def test_replies_are_taken_on_ones_own_inbox_only(server):
    """Whoever knows the prefix, but not the rest, reaches nobody; a reply counts once, for the call it belongs to."""
    login = {"user": "ann", "password": "right-word"}
    async with (
        StreamBroker.connect(server.url, inbox_prefix="_INBOX_one", **login) as one,
        StreamBroker.connect(server.url, inbox_prefix="_INBOX_two", **login) as two,
    ):
        asked = []
        await two.subscribe("question", asked.append)
        waiting = asyncio.ensure_future(one.request("question", b"?", timeout=10))
        await eventually(lambda: asked)
        inbox = asked[0].reply_to
        assert inbox.startswith("_INBOX_one.")
        prefix, _, number = inbox.rpartition(".")
        assert len(prefix.split(".")[1]) >= 22, "not to be guessed"
        guesses = ["_INBOX_one.1", f"_INBOX_two.{number}", f"{prefix}.{int(number) + 1}", f"{prefix}.x", f"{inbox}.1"]
        for guess in guesses:
            await two.publish(guess, b"forged")
        await two.flush()
        await one.flush()
        assert not waiting.done()
        await two.publish(inbox, b"answer")
        assert (await waiting).data == b"answer"
        await two.publish(inbox, b"again")
        await two.flush()
        second = asyncio.ensure_future(one.request("question", b"?", timeout=10))
        await eventually(lambda: len(asked) == 2)
        assert asked[1].reply_to != inbox
        await two.publish(asked[1].reply_to, b"second")
        assert (await second).data == b"second"
