"""Consumers as others make them: with a limit on the server, after which it gives up by itself."""

NOTICES = "GAMEBROKER_GIVEN_UP"
SECOND = 1_000_000_000


async def limited(sb, name="w", *, stream="S", max_deliver=2, ack_wait=30.0, **config):
    """A consumer with a limit on the server, which we never set ourselves."""
    config |= {"name": name, "durable_name": name, "ack_policy": config.get("ack_policy", "explicit")}
    config |= {"max_deliver": max_deliver, "ack_wait": round(ack_wait * SECOND)}
    request = {"stream_name": stream, "config": config, "action": "create"}
    await sb._streams._admin._api.call(f"CONSUMER.CREATE.{stream}.{name}", request)


async def lent(sb, number, *, stream="S", consumer="w"):
    """So many messages in the hand of a client that counts no attempts."""
    async with sb.pull(f"{stream.lower()}.>", durable=consumer, stream=stream, ensure="bind") as puller:
        taken = []
        while len(taken) < number:
            taken += await puller.fetch(number - len(taken), timeout=5)
        yield taken
        await sb.flush()


async def worn_out(sb, number, attempts=2, **where):
    """Handed out as often as the limit allows, and given back every time."""
    for _ in range(attempts):
        async for taken in lent(sb, number, **where):
            for message in taken:
                await message.nak(delay=0)
