"""``gamebroker doctor``: looks at servers and at what this user may do there, and says in plain words what is wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from broker.backends.nats.addresses import parse
from broker.backends.nats.examining import examine, look_at_monitoring
from broker.cli.connection import add_connection_options, connection
from broker.cli.diagnosis import diagnose
from broker.connecting import url_or_default
from broker.contracts.errors import BrokerError
from broker.contracts.options import ConnectOptions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from broker.cli.diagnosis import Finding

_TOLD = (
    "look at servers and at what this user may do: version, TLS, login, clock, permissions, JetStream, durability, "
    "cluster. Changes nothing. Exit code 1 when there is a problem, 2 when the question makes no sense"
)


def register(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser("doctor", help="what is wrong with a server, and what to do", description=_TOLD)
    add_connection_options(parser, again=True)
    parser.add_argument(
        "--monitoring", metavar="URL", help="of the servers' monitoring pages, by commas, for what clients are not told"
    )
    parser.add_argument("--stream", help="also whether this user may work on it ...")
    parser.add_argument("--durable", help="... by this consumer")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.set_defaults(alone=lambda options: asyncio.run(_examined(options)))


async def _examined(options: argparse.Namespace) -> int:
    try:
        asked = _asked(options)
        facts = await examine(asked, stream=options.stream, durable=options.durable)
    except (BrokerError, OSError) as exc:
        sys.stderr.write(f"gamebroker: {exc}\n")
        return 2
    if options.monitoring is not None:
        await look_at_monitoring(facts, options.monitoring)
    findings = diagnose(facts)
    problems = sum(each.level == "problem" for each in findings)
    if options.json:
        told: dict[str, Any] = {"servers": list(parse(asked).urls), "problems": problems}
        sys.stdout.write(json.dumps({**told, "findings": [asdict(each) for each in findings]}, indent=2) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in _lines(findings))
    return 1 if problems else 0


def _asked(options: argparse.Namespace) -> ConnectOptions:
    given = {name: value for name, value in connection(options).items() if value is not None}
    return ConnectOptions(**{**given, "url": url_or_default(options.url)}, name="gamebroker doctor")


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    width = max(len(each.check) for each in findings)
    for each in findings:
        yield f"{each.level:<7}  {each.check:<{width}}  {each.says}.{f' {each.do}' if each.do else ''}"
    counts = {level: sum(each.level == level for each in findings) for level in ("problem", "warning", "unknown")}
    yield ", ".join(
        f"{count} {level}{'' if count == 1 or level == 'unknown' else 's'}" for level, count in counts.items()
    )
