"""Which server is next, and when."""

import pytest

from broker.backends.nats.wire.pool import Pool


def names(pool):
    return sorted(map(str, pool.shuffled()))


class TestKnowing:
    def test_given_servers_stay_and_others_come_and_go(self):
        pool = Pool(["nats://game.example:4222"])
        (given,) = pool.shuffled()
        pool.learn(["10.0.0.1:4222", "10.0.0.2:4222", "[fe80::1]:4222"], given)
        assert names(pool) == ["10.0.0.1:4222", "10.0.0.2:4222", "[fe80::1]:4222", "game.example:4222"]
        pool.learn(["10.0.0.2:4222"], given)
        assert names(pool) == ["10.0.0.2:4222", "game.example:4222"]
        pool.learn([], given)
        assert len(pool) == 2

    def test_a_name_and_the_address_it_led_to_are_one_server(self):
        pool = Pool(["nats://game.example:4222"])
        (given,) = pool.shuffled()
        pool.learn(["10.0.0.1:4222", "10.0.0.2:4222"], given, ("10.0.0.1", 4222))
        assert names(pool) == ["10.0.0.2:4222", "game.example:4222"]
        pool.learn(["10.0.0.1:4222", "10.0.0.2:4222"], given, ("10.0.0.2", 4222))
        assert names(pool) == ["10.0.0.1:4222", "game.example:4222"]

    def test_whoever_gives_both_keeps_both(self):
        pool = Pool(["nats://game.example:4222", "nats://10.0.0.1:4222"])
        for given in pool.shuffled():
            pool.learn(["10.0.0.1:4222", "10.0.0.2:4222"], given, ("10.0.0.1", 4222))
            assert names(pool) == ["10.0.0.1:4222", "10.0.0.2:4222", "game.example:4222"]

    def test_the_server_that_tells_is_kept(self):
        pool = Pool(["nats://a:1"])
        (given,) = pool.shuffled()
        pool.learn(["b:1"], given)
        learned = next(each for each in pool.shuffled() if not each.given)
        pool.learn(["c:1"], learned)
        assert names(pool) == ["a:1", "b:1", "c:1"]

    def test_failures_are_remembered_over_news(self):
        pool = Pool(["nats://a:1"])
        (given,) = pool.shuffled()
        pool.learn(["b:1"], given)
        learned = next(each for each in pool.shuffled() if not each.given)
        pool.failed(learned)
        pool.learn(["b:1"], given)
        assert learned in pool.shuffled()

    @pytest.mark.parametrize("url", ["", "b", "b:x", ":1", "b:99999", "[::1", "b:0"])
    def test_what_is_no_address_is_not_learned(self, url):
        pool = Pool(["nats://a:1"])
        (given,) = pool.shuffled()
        pool.learn([url], given)
        assert names(pool) == ["a:1"]

    def test_they_are_not_learned_without_end(self):
        pool = Pool(["nats://a:1"])
        (given,) = pool.shuffled()
        pool.learn([f"10.0.{n // 250}.{n % 250}:1" for n in range(5000)], given)
        assert len(pool) < 300

    @pytest.mark.parametrize(
        ("given", "learned", "tls_name"),
        [
            ("nats://game.example:1", "10.0.0.1:1", "game.example"),
            ("nats://game.example:1", "b.example:1", "b.example"),
            ("nats://10.0.0.9:1", "10.0.0.1:1", "10.0.0.1"),
        ],
    )
    def test_the_certificate_must_be_for_the_name_that_led_there(self, given, learned, tls_name):
        pool = Pool([given])
        pool.learn([learned], pool.shuffled()[0])
        assert next(each.tls_name for each in pool.shuffled() if not each.given) == tls_name


class TestChoosing:
    def test_another_before_the_one_just_left(self):
        pool = Pool(["nats://a:1", "nats://b:1", "nats://c:1"])
        for _ in range(50):
            left = pool.shuffled()[0]
            pool.reached(left)
            assert pool.choose()[0] is not left

    def test_every_server_has_its_turn(self):
        pool = Pool(["nats://a:1", "nats://b:1", "nats://c:1"])
        tried = []
        for _ in range(30):
            server, _ = pool.choose()
            pool.failed(server)
            tried.append(server)
        assert all(len(set(tried[at : at + 3])) == 3 for at in range(0, 30, 3))

    def test_the_wait_is_random_and_bounded(self, monkeypatch):
        clock = [100.0]
        monkeypatch.setattr("broker.backends.nats.wire.pool.time.monotonic", lambda: clock[0])
        pool = Pool(["nats://a:1"])
        pool.reached(pool.shuffled()[0])
        clock[0] += 60
        pool.lost()
        first, *others = [pool.choose()[1] for _ in range(200)]
        assert 0 <= first <= 0.05
        assert all(0.1 <= each <= 0.5 for each in others)
        assert len(set(others)) > 100

    def test_a_server_that_throws_us_out_at_once_is_not_asked_again_at_once(self, monkeypatch):
        monkeypatch.setattr("broker.backends.nats.wire.pool.time.monotonic", lambda: 100.0)
        pool = Pool(["nats://a:1"])
        (server,) = pool.shuffled()
        waits = []
        for _ in range(5):
            pool.reached(server)
            pool.lost()
            waits.append(pool.choose()[1])
        assert all(wait >= 0.1 for wait in waits[1:])
