from pathlib import Path

import pytest

from broker.server import ServerError, without_store_dir
from broker.server.config import Peering, Settings, arguments, read_config, render


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('jetstream { store_dir: "/data", sync_interval: always }', "jetstream {  sync_interval: always }"),
        ("jetstream {\n  store_dir = /data\n  max_file: 1GB\n}", "jetstream {\n  \n  max_file: 1GB\n}"),
        ("jetstream { store_dir '/data' }", "jetstream {  }"),
        ("jetstream: {storedir: $STORE; max_mem: 1}", "jetstream: { max_mem: 1}"),
        ("jetstream { STORE: /data }", "jetstream {  }"),
        ('{"jetstream": {"store_dir": "/data", "max_mem": 1}}', '{"jetstream": { "max_mem": 1}}'),
        ("store_dir: /data # on the volume", "# on the volume"),
    ],
)
def test_store_dir_is_taken_out_in_every_spelling(text, left):
    assert without_store_dir(text).split() == left.split()


@pytest.mark.parametrize(
    "text",
    [
        "# store_dir: /data",
        "// store_dir: /data",
        'server_name: "store_dir: x"',
        "authorization { user: 'store_dir: x', pass: b }",
        "tls { cert_store: windows, my_store_dir: x }",
        "cluster { routes: [nats-route://nats-1:6222, nats-route://nats-2:6222] }",
    ],
)
def test_everything_else_stays_as_it_is(text):
    assert without_store_dir(text) == text


def test_an_unquoted_url_is_not_a_comment():
    text = "routes: [nats://a:1] store_dir: /data"
    assert without_store_dir(text).strip() == "routes: [nats://a:1]"


def test_included_files_stand_in_their_places(tmp_path: Path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "node.conf").write_text(
        'server_name: a\n# include "nothing"\ninclude "parts/jetstream.conf"\nport: 1\n'
    )
    (tmp_path / "parts" / "jetstream.conf").write_text("jetstream { include ./limits.conf }")
    (tmp_path / "parts" / "limits.conf").write_text("max_mem: 1")
    assert " ".join(read_config(tmp_path / "node.conf").split()) == (
        'server_name: a # include "nothing" jetstream { max_mem: 1 } port: 1'
    )


def test_a_missing_or_circular_include_is_a_server_error(tmp_path: Path):
    (tmp_path / "node.conf").write_text("include node.conf")
    with pytest.raises(ServerError, match="included by itself"):
        read_config(tmp_path / "node.conf")
    with pytest.raises(ServerError, match="cannot be read"):
        read_config(tmp_path / "none.conf")


def test_the_callers_text_comes_after_ours_so_that_it_wins():
    text = render(Settings(name="a b", sync_interval="always", max_payload=5, http_port=9, text="max_payload: 6"))
    assert 'jetstream { sync_interval: "always" }' in text
    assert 'server_name: "a b"' in text
    assert text.index("max_payload: 5") < text.index("max_payload: 6") < text.index('http: "127.0.0.1:9"')


def test_none_leaves_the_sync_interval_to_the_server():
    assert "sync_interval" not in render(Settings(sync_interval=None))


def test_addresses_go_on_the_command_line():
    settings = Settings(port=1, http_port=2, peering=Peering(port=3, routes=(3, 4)))
    given = arguments(settings, config=Path("/s/c"), store=Path("/s"), log=Path("/s/l"))
    assert " ".join(given) == (
        "-c /s/c -l /s/l -sd /s --ports_file_dir /s -a 127.0.0.1 -p 1 -m 2 --cluster nats://127.0.0.1:3 "
        "--routes nats-route://127.0.0.1:3,nats-route://127.0.0.1:4 "
        "--cluster_advertise 127.0.0.1:3 --client_advertise 127.0.0.1:1"
    )


def test_a_wildcard_host_is_not_advertised():
    given = arguments(
        Settings(host="0.0.0.0", port=1, peering=Peering(port=3, routes=(3,))),
        config=Path("c"),
        store=Path("s"),
        log=Path("l"),
    )
    assert given[given.index("--client_advertise") + 1] == "127.0.0.1:1"
    assert given[given.index("--routes") + 1] == "nats-route://127.0.0.1:3"
    assert given[given.index("-a") + 1] == "0.0.0.0"
