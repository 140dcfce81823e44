"""What an error tells of servers that cannot be reached."""

from broker.backends.nats.trouble import Trouble


def test_every_server_is_told_of_once_and_the_last_one_tried_at_the_end():
    trouble = Trouble()
    assert not str(trouble)
    trouble.begin("a:1", "")
    trouble.note("b:1", "no answer in time")
    trouble.note("a:1", "connection refused")
    assert str(trouble) == "b:1: no answer in time; a:1: connection refused"
    trouble.begin("b:1", "hung up")
    assert str(trouble) == "b:1: hung up"


def test_a_large_cluster_makes_no_endless_text():
    trouble = Trouble()
    for number in range(300):
        trouble.note(f"host-{number}:4222", "connection refused")
    told = str(trouble).split("; ")
    assert told == [f"host-{number}:4222: connection refused" for number in range(292, 300)]
