"""``gamebroker``: one verb a call, plain lines out, exit code 1 with one sentence when something is wrong."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import math
import sys
from typing import TYPE_CHECKING, TextIO

from broker import BrokerError, ConnectError, ConnectionLost, NoResponders, StreamBroker, StreamOptions, __version__
from broker.cli import doctor
from broker.cli.connection import add_connection_options, connection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from broker import DeadLetter

    Verb = Callable[[StreamBroker, argparse.Namespace], Awaitable[None]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["server"]:
        from broker.server.__main__ import main as serve  # noqa: PLC0415 - only this verb starts a server

        return serve(given[1:], prog="gamebroker server")
    if given[:1] == ["chaos"]:
        return _chaos(given[1:])
    options = _parser().parse_args(given)
    try:
        if hasattr(options, "alone"):  # a verb that connects by itself
            return int(options.alone(options))
        asyncio.run(_run(options))
    except (KeyboardInterrupt, BrokenPipeError):
        return 130
    except (BrokerError, OSError) as error:
        say(f"gamebroker: {error}", to=sys.stderr)
        if isinstance(error, BrokerError) and (advice := _advice(error)):
            say(advice, to=sys.stderr)
        return 1
    return 0


def say(line: str, *, to: TextIO | None = None) -> None:
    """One line out, at once, so that pipes see it."""
    print(line, file=to or sys.stdout, flush=True)


def _chaos(given: Sequence[str]) -> int:
    """A chaos run. It lies beside the library, not in it: only a checkout has it."""
    try:
        chaos = importlib.import_module("loadtest.chaos.__main__")
    except ImportError as missing:
        told = f"chaos is run in a checkout of gamebroker, by `make chaos`, which installs what it needs ({missing})"
        say(f"gamebroker: {told}", to=sys.stderr)
        return 1
    code: int = chaos.main(given)
    return code


def _advice(error: BrokerError) -> str:
    if type(error) is ConnectError:
        return "Start one with `gamebroker server`, or name another with --url or NATS_URL."
    return "" if error.advice in str(error) else error.advice


async def _run(options: argparse.Namespace) -> None:
    async with StreamBroker.connect(**connection(options), name="gamebroker-cli") as sb:
        verb: Verb = options.verb
        await verb(sb, options)


async def _publish(sb: StreamBroker, options: argparse.Namespace) -> None:
    await sb.publish(options.subject, options.body.encode())
    await sb.flush()


async def _subscribe(sb: StreamBroker, options: argparse.Namespace) -> None:
    subscription = await sb.subscribe(options.pattern)
    left = options.count
    async for msg in subscription:
        say(f"{msg.subject} {msg.data.decode('utf-8', 'replace')}")
        left -= 1
        if left == 0:
            return


async def _request(sb: StreamBroker, options: argparse.Namespace) -> None:
    reply = await sb.request(options.subject, options.body.encode(), timeout=options.timeout)
    say(reply.data.decode("utf-8", "replace"))


async def _enqueue(sb: StreamBroker, options: argparse.Namespace) -> None:
    receipt = await sb.enqueue(options.subject, options.body.encode(), idempotency_key=options.key)
    say(f"{receipt.stream} {receipt.sequence}{' duplicate' if receipt.duplicate else ''}")


async def _declare(sb: StreamBroker, options: argparse.Namespace) -> None:
    await sb.declare(StreamOptions(options.name, options.subjects))
    say(f"{options.name} captures {','.join(options.subjects)}")


async def _streams(sb: StreamBroker, _: argparse.Namespace) -> None:
    async for info in sb.streams.list():
        say(f"{info.name} messages={info.messages} bytes={info.state.bytes} subjects={','.join(info.config.subjects)}")


async def _consumers(sb: StreamBroker, options: argparse.Namespace) -> None:
    async for info in sb.consumers.list(options.stream):
        say(
            f"{info.name} pending={info.pending} in_hand={info.ack_pending} redelivered={info.redelivered} "
            f"settled_up_to={info.ack_floor}"
        )


async def _list_dead(sb: StreamBroker, options: argparse.Namespace) -> None:
    async for letter in sb.dead_letters.list(stream=options.stream, consumer=options.consumer):
        say(_told(letter))


async def _replay_dead(sb: StreamBroker, options: argparse.Namespace) -> None:
    if options.sequence is not None:
        count = await sb.dead_letters.replay(options.sequence)
    else:
        count = await sb.dead_letters.replay(stream=options.stream, consumer=options.consumer, rate=options.rate)
    say(f"replayed {count}")


async def _discard_dead(sb: StreamBroker, options: argparse.Namespace) -> None:
    gone = await sb.dead_letters.discard(options.sequence, options.reason)
    say("discarded" if gone else "not there")


async def _sweep_dead(sb: StreamBroker, options: argparse.Namespace) -> None:
    while True:
        try:
            swept = await sb.dead_letters.sweep(options.stream, options.consumer)
        except (ConnectionLost, NoResponders, TimeoutError) as error:
            if options.every is None:
                raise
            say(f"gamebroker: {error}", to=sys.stderr)
        else:
            say(f"written={swept.written} gone={swept.gone} undecided={swept.undecided} unknown={swept.unknown}")
        if options.every is None:
            return
        await asyncio.sleep(options.every)


def _told(letter: DeadLetter) -> str:
    error = f" {letter.error_type}: {letter.error}" if letter.error_type else ""
    return (
        f"{letter.sequence} {letter.subject} from {letter.stream}/{letter.stream_sequence} by {letter.consumer} "
        f"attempts={letter.attempts} reason={letter.reason!r} key={letter.idempotency_key}{error}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gamebroker", description="look at a server, send by hand, replay dead letters"
    )
    parser.add_argument("--version", action="version", version=f"gamebroker {__version__}")
    add_connection_options(parser)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Verb, told: str, *positional: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=told, description=told)
        sub.add_argument("--url", default=argparse.SUPPRESS, help="the server, also after the verb")
        for each in positional:
            sub.add_argument(each)
        sub.set_defaults(verb=run)
        return sub

    verbs.add_parser("server", help="run a real nats-server in the foreground (see: gamebroker server --help)")
    doctor.register(verbs)
    verbs.add_parser("chaos", help="settle under planned faults and judge the run (see: gamebroker chaos --help)")
    verb("publish", _publish, "send one core message", "subject", "body")
    listen = verb("subscribe", _subscribe, "print core messages", "pattern")
    listen.add_argument("--count", type=int, default=0, help="stop after so many (0: never)")
    ask = verb("request", _request, "send a request and print the reply", "subject", "body")
    ask.add_argument("--timeout", type=float, default=2.0, help="seconds")
    store = verb("enqueue", _enqueue, "store one message", "subject", "body")
    store.add_argument("--key", help="idempotency key")
    verb("streams", _streams, "list streams")
    declare = verb("declare", _declare, "make sure of a stream", "name")
    declare.add_argument("subjects", nargs="+", help="patterns it captures")
    verb("consumers", _consumers, "list the consumers of a stream", "stream")
    dead = verb("dead-letters", _list_dead, "list what gave up")
    replay = verb("replay", _replay_dead, "put dead letters back on their subjects")
    replay.add_argument("--sequence", type=int, help="this one only")
    replay.add_argument("--rate", type=float, help="per second at most")
    for each in (dead, replay):
        each.add_argument("--stream", help="that they came from")
        each.add_argument("--consumer", help="that gave up on them")
    discard = verb("discard", _discard_dead, "remove one dead letter for good")
    discard.add_argument("sequence", type=int)
    discard.add_argument("reason")
    sweep = verb("sweep", _sweep_dead, "write dead letters for what the server itself gave up on", "stream")
    sweep.add_argument("consumer", nargs="?", help="this one only")
    sweep.add_argument("--every", type=_seconds, help="again and again, so many seconds apart")
    return parser


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError(text)
    return seconds


if __name__ == "__main__":
    sys.exit(main())
