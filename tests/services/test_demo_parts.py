from __future__ import annotations

import asyncio
import io
import random
import sys
import time

from services.demo.crowd import Crowd, Player, quantile
from services.demo.mischief import Mischief
from services.demo.progress import Progress, Snapshot
from services.demo.report import table
from services.demo.screen import PlainScreen, open_screen
from services.events import BATTLE_SETTLE, SETTLEMENTS, View
from services.gateway.gateway import Gateway


def view(tick: int, *, epoch: int = 1, acks: tuple[int, int] = (0, 0)) -> View:
    state = {
        "battle": {"began": 0, "tick_rate": 30},
        "player.p1": {"ack": acks[0]},
        "player.p2": {"ack": acks[1]},
    }
    return View(room="r", epoch=epoch, tick=tick, sent=time.time_ns(), state=state)


def test_quantiles_of_what_was_measured():
    assert quantile([], 0.99) == 0.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert quantile([1.0, 2.0, 3.0, 4.0], 1.0) == 4.0


def test_a_player_sends_at_its_rate_with_growing_numbers_some_twice_and_some_forged():
    player, commands = Player("p1", ["p2", "p3"], 50.0, random.Random(3)), []
    for half in range(1, 201):
        commands += player.due(half / 2)
        player.see(view(half, acks=(commands[-1].cmd_seq, 0)))
    assert sorted({command.cmd_seq for command in commands}) == list(range(1, commands[-1].cmd_seq + 1))
    assert 4500 < commands[-1].cmd_seq < 5500
    twice = len(commands) - commands[-1].cmd_seq
    assert 0.01 < twice / len(commands) < 0.04
    assert 0.001 < sum(command.player != "p1" for command in commands) / len(commands) < 0.02
    assert [command.client_tick for command in commands] == sorted(command.client_tick for command in commands)


async def test_a_crowd_joins_what_it_sees_and_sends_through_its_gateway(sb):
    gateway = Gateway(sb, "crowd")
    crowd = Crowd(gateway, ["r"], rate=1000.0, dice=random.Random(1))
    crowd.play()
    assert crowd.sent == 0
    crowd._see(view(1))
    await asyncio.sleep(0.02)
    crowd.play()
    told = crowd.totals()
    assert told["gateway"]["sessions"] == 3  # two players and the spectator
    assert sum(told["gateway"]["passings"].values()) == told["commands"] > 0
    assert 0 < told["hop_max"] < 10


async def test_mischief_repeats_with_the_same_and_with_other_keys(sb, make_battle, eventually):

    for n in range(30):
        await sb.enqueue(BATTLE_SETTLE, make_battle(f"b-{n}"), idempotency_key=f"b-{n}")
    mischief = Mischief(sb)
    making = asyncio.ensure_future(mischief.run())
    await eventually(lambda: len(mischief._bodies) == 30)
    await mischief.burst(5)
    making.cancel()
    await asyncio.wait({making})
    assert mischief.absorbed_by_server > 0
    assert mischief.stored_again > 5
    assert (await sb.streams.info(SETTLEMENTS.name)).messages == 30 + mischief.stored_again


def test_without_rich_or_a_terminal_the_screen_is_plain(monkeypatch):
    assert isinstance(open_screen(), PlainScreen)
    monkeypatch.setattr(sys, "stdout", _Terminal())
    monkeypatch.delitem(sys.modules, "services.demo.rich_screen", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert isinstance(open_screen(), PlainScreen)


def test_on_a_terminal_with_rich_the_view_is_live(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    screen = open_screen()
    assert not isinstance(screen, PlainScreen)
    screen.show(1.0, Snapshot(ended=3))
    screen.say("something [happened]")
    screen.report([("battles", "3 / 3")])
    screen.close()
    assert "something [happened]" in terminal.getvalue()
    assert "3 / 3" in terminal.getvalue()


def test_a_run_with_nothing_yet_has_a_line_and_a_table(tmp_path, capsys):
    progress = Progress(
        histories=[tmp_path / "a"], crowd=tmp_path / "b", ledger=tmp_path / "c", standings=tmp_path / "d"
    )
    now = progress.look()
    screen = PlainScreen()
    screen.show(1.0, now)
    screen.report(table(now, top=progress.top(5), absorbed_by_server=0, killed="nobody"))
    said = capsys.readouterr().out
    assert "battles ended 0, settled 0" in said
    assert "ledger sum" in said


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True
