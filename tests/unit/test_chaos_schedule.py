"""The schedule of a chaos run: pure data, decided by its seed."""

from collections import Counter

import pytest

from loadtest.chaos.catalogue import KINDS, POINTS, kinds_for
from loadtest.chaos.scenarios import SCENARIOS
from loadtest.chaos.schedule import scheduled, table

ALL = kinds_for("nats")


def quick(seed=1, **changed):
    return scheduled(**{"scenarios": ALL, "count": 45, "seconds": 60.0, "workers": 2, "seed": seed} | changed)


def test_a_seed_decides_everything_and_another_one_something_else():
    assert quick(7) == quick(7)
    assert quick(7) != quick(8)


@pytest.mark.parametrize("seed", range(20))
def test_every_variant_of_every_kind_is_planned_and_none_too_early(seed):
    faults = quick(seed)
    assert [fault.number for fault in faults] == list(range(1, 46))
    assert {(fault.kind, fault.detail) for fault in faults} == {(k, d) for k in ALL for d in KINDS[k].details}
    assert {fault.detail for fault in faults if fault.kind == "worker-kill"} == set(POINTS)
    for fault in faults:
        kind = KINDS[fault.kind]
        assert max(0.5, kind.earliest) <= fault.at < 60
        assert kind.seconds[0] <= fault.seconds <= kind.seconds[1]
        assert (fault.target in {1, 2}) is (kind.track == "worker")
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)


def test_both_workers_have_their_share_and_heavy_kinds_a_larger_one():
    counts = Counter(fault.target for seed in range(20) for fault in quick(seed))
    assert abs(counts[1] - counts[2]) < counts[1] / 3
    kinds = Counter(fault.kind for seed in range(20) for fault in quick(seed, count=200))
    assert kinds["kill-server"] > 2 * kinds["malformed"]


def test_a_kind_that_has_no_room_is_refused_and_so_is_said_which():
    with pytest.raises(ValueError, match=r"dup-outside needs a run of 4 s at least, not 3"):
        quick(seconds=3.0)


def test_what_does_not_exist_is_refused():
    for name in ("kill-serve", "worker-kill:somewhere", "kill-server:x"):
        with pytest.raises(ValueError, match=f"no scenario '{name}'; there are kill-server, "):
            quick(scenarios=[name])


def test_a_database_with_a_server_can_be_restarted():
    names = kinds_for("nats", "postgres")
    faults = scheduled(names, count=60, seconds=60.0, workers=2, seed=1, database="postgres")
    assert {fault.detail for fault in faults if fault.kind == "db-restarted"} == {"stop", "kill"}
    with pytest.raises(ValueError, match="db-restarted is nothing that happens to the database sqlite"):
        quick(scenarios=["db-restarted"])


def test_a_cluster_has_faults_of_its_own():
    everything = scheduled(kinds_for("cluster"), count=60, seconds=120.0, workers=2, seed=1, backend="cluster")
    kinds = {fault.kind for fault in everything}
    assert {"kill-leader", "freeze-leader", "rolling", "kill-all"} <= kinds
    assert not kinds & {"kill-server", "auth-revoked"}
    with pytest.raises(ValueError, match="kill-leader is nothing that happens to the backend nats"):
        quick(scenarios=["kill-leader"])


def test_every_kind_has_a_scenario():
    assert set(SCENARIOS) == set(KINDS)


def test_one_variant_alone_and_no_fault_at_all():
    [fault] = scheduled(["worker-kill:mid_batch"], count=1, seconds=2.0, workers=2, seed=3)
    assert (fault.kind, fault.detail) == ("worker-kill", "mid_batch")
    assert quick(count=0) == ()


def test_one_scenario_alone():
    [fault] = scheduled(["kill-server"], count=1, seconds=5.0, workers=2, seed=3)
    assert fault.kind == "kill-server"
    assert 1.0 <= fault.at < 4.5
    assert "kill-server" in table([fault])
    assert f"for {fault.seconds:g} s" in table([fault])
