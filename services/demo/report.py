"""The final table, from a last look at the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.demo.progress import ms

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence
    from typing import Any

    from services.demo.progress import Snapshot


def table(
    last: Snapshot, *, top: Sequence[tuple[Any, ...]], absorbed_by_server: int, killed: str
) -> list[tuple[str, str]]:
    """Names and values, top to bottom."""
    rooms, seen = last.rooms, last.seen
    return [
        ("ticks planned / run / skipped", f"{rooms['planned']:,} / {rooms['run']:,} / {rooms['skipped']:,}"),
        ("tick lateness p99 / max", f"{ms(last.late_p99)} / {ms(last.late_max)} (worst room process)"),
        (
            "frames sent / received / lost / superseded",
            f"{rooms['frames']:,} / {seen['received']:,} / {seen['lost']:,} / {seen['superseded']:,}",
        ),
        (
            "hop latency p50 / p99 / max",
            f"{ms(last.hop['hop_p50'])} / {ms(last.hop['hop_p99'])} / {ms(last.hop['hop_max'])}",
        ),
        ("commands sent / accepted", f"{seen['commands']:,} / {last.rulings['accepted']:,}"),
        ("refused by the gateway", _refused(last.passings, "passed")),
        ("refused by the rooms", _refused(last.rulings, "accepted")),
        ("gateway's messages to rooms", f"{rooms['batches']:,}: one per room and tick"),
        ("battles ended / settled", f"{last.ended:,} / {last.settled:,}"),
        ("duplicates absorbed", f"{absorbed_by_server:,} by the server, {last.absorbed:,} by the ledger"),
        ("worker killed", killed),
        ("ledger sum", f"{last.ledger_sum} coins over {last.entries:,} entries"),
        ("points counted", f"{last.counted:,} events, each once"),
        *(
            (f"top {place}", f"{player}  {score:,} points in {battles} battles")
            for place, (player, score, battles) in enumerate(top, start=1)
        ),
    ]


def _refused(counts: Counter[str], taken: str) -> str:
    told = [f"{count:,} {name.replace('_', ' ')}" for name, count in sorted(counts.items()) if name != taken]
    return ", ".join(told) or "none"
