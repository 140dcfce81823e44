"""A game server: ``killed_sender.py URL JOURNAL FIRST LAST [HOOK COUNT]``; tells what its journal has.

It stays until it is killed, or dies when HOOK is reached the COUNTth time.
"""

import asyncio
import sys
from dataclasses import dataclass

from broker import QoS, StreamBroker, contract
from broker.exactly_once import hooks
from tests.exactly_once.killed_worker import Death

SUBJECT = "battle.ended"


@contract(subject=SUBJECT, qos=QoS.EXACTLY_ONCE, key="battle_id")
@dataclass
class Ended:
    battle_id: int
    winner: str


async def main(url, journal, first, last, hook="-", count="1"):
    hooks.install(Death(hook, int(count)))
    async with StreamBroker.connect(url) as sb:
        await sb.keep_journal(journal)
        await sb.check_contracts(Ended)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        for number in range(int(first), int(last)):
            receipt = await sb.send(Ended(number, "ann"), timeout=0)
            sys.stdout.write(f"{'stored' if receipt else 'journaled'} {number}\n")
            sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
