"""The backlog benchmark end to end on a real server, in the smallest size, and what it makes of figures."""

import asyncio

import pytest

from broker import StreamBroker
from broker.server import NatsServer
from loadtest import backlog as command
from loadtest.backlog import HEAVIEST, LONG, SHORT, Run, Work, consumer, filled, verdicts, worked_off

MIB = 1 << 20


def runs(*, rate=100.0, whole=100.0, peak=30 * MIB):
    """A long backlog's figures beside a short one's 100 a second and 30 MiB, noise around both."""
    noise = (0.9, 1.0, 1.1)
    return {
        SHORT: [Run(100.0 * each, 100.0, 30 * MIB) for each in noise],
        LONG: [Run(rate * each, whole * each, peak) for each in noise],
    }


@pytest.mark.parametrize(
    ("given", "met"),
    [
        ({}, [True, True, True]),
        ({"rate": 85.0, "whole": 85.0, "peak": 30 * MIB + HEAVIEST}, [True, True, True]),
        ({"rate": 84.0}, [False, True, True]),
        ({"whole": 84.0}, [True, False, True]),
        ({"peak": 30 * MIB + HEAVIEST + 1}, [True, True, False]),
        ({"rate": 300.0, "whole": 300.0, "peak": 20 * MIB}, [True, True, True]),
    ],
)
def test_every_bar_is_held(given, met):
    assert [each.met for each in verdicts(runs(**given))] == met


@pytest.mark.nats
@pytest.mark.timeout(180)
def test_the_command_in_tiny(tmp_path, capsys):
    page = tmp_path / "kept" / "backlog.md"
    chosen = ["--short", "50", "--long", "500", "--rounds", "2", "--passes", "2", "--report", str(page)]
    code = command.main(chosen)
    written, told = page.read_text(), capsys.readouterr()
    assert told.out.strip() == written.strip()
    # So few messages say nothing about speed; what they came to must be said all the same.
    assert code == int("**MISSED: " in written) == int("**every bar met**" not in written)
    assert f"python -m loadtest.backlog {' '.join(chosen)}" in written
    assert "nats-server 2." in written
    rows = [line for line in written.splitlines() if line.startswith(("| 50 |", "| 500 |"))]
    assert len(rows) == 2
    turns = [line.split()[2] for line in told.err.splitlines() if line.startswith("round ")]
    assert turns == [SHORT, LONG, LONG, SHORT]


@pytest.mark.parametrize("wrong", [["--short", "1"], ["--short", "10", "--long", "9"], ["--rounds", "0"]], ids=str)
def test_what_cannot_be_measured_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        command.main(wrong)
    assert "must be at least" in capsys.readouterr().err


@pytest.mark.nats
@pytest.mark.timeout(60)
async def test_a_run_that_missed_a_message_is_no_figure():
    async with NatsServer(sync_interval=None) as server, StreamBroker.connect(server.url) as sb:
        await filled(sb, "S", 20, 16)
        assert await worked_off(sb, "S", 20, "whole") > 0
        await sb.streams.delete_message("S", 5)
        with pytest.raises(RuntimeError, match="in order"):
            await worked_off(sb, "S", 10, "first")
        assert [name async for name in sb.consumers.names("S")] == []


@pytest.mark.timeout(60)
async def test_a_consumer_that_fails_is_told():
    work = Work(url="nats://127.0.0.1:1", link="wire", stream="S", first=2, passes=1, stored=2)
    with pytest.raises(RuntimeError, match="failed"):
        await asyncio.wait_for(consumer(work), 50)
