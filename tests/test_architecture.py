"""What keeps the rooms apart. Each rule says why it is there; a change that breaks one belongs in another room."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for room in ("broker", "services", "loadtest") for path in (TOP / room).rglob("*.py"))
LIBRARY = [path for path in SOURCES if path.is_relative_to(TOP / "broker")]
EVERYTHING = sorted([*SOURCES, *(TOP / "tests").rglob("*.py"), *(TOP / "docs").rglob("*.py")])

LONGEST = 400
DRAWERS = {"utils", "util", "helpers", "helper", "common", "misc", "base", "shared", "stuff", "tools"}
RULES = (
    *("broker/state/frames.py", "broker/state/delta.py", "broker/state/composing.py", "broker/state/following.py"),
    *("broker/contracts/lanes.py", "broker/lanes/assignment.py", "broker/lanes/parking.py", "broker/lanes/records.py"),
    *("broker/exactly_once/marks.py", "broker/exactly_once/trouble.py"),
    *("broker/contracts/event_contracts.py", "broker/quality/requirements.py", "broker/quality/losses.py"),
    "broker/rescheduling/copies.py",
    *("services/game_room/room.py", "services/game_room/battle.py", "services/game_room/commands.py"),
    *("services/game_room/desk.py", "services/gateway/door.py", "services/gateway/sessions.py"),
    *("services/events/numbering.py", "services/events/views.py"),
    *("services/settlement/rewards.py", "services/leaderboard/standings.py"),
    *("services/mail/escrow.py", "services/audit/chain.py"),
)

HOMES = {
    # The hot paths below the client will be replaced; nothing else may know it.
    "nats": ("broker/backends/nats/natspy/driver.py", "loadtest/"),
    # Not installed or not configured must cost nothing.
    "opentelemetry": ("broker/telemetry/",),
    # The loop is the program's choice, not the library's.
    "uvloop": ("services/", "broker/cli/", "loadtest/"),
    # How bodies become bytes is the codec's business; the protocol's own JSON is the backend's.
    "orjson": ("broker/codecs/", "broker/backends/nats/", "services/", "loadtest/"),
    # A service is a user: how it reads its own events and files is its choice.
    "msgspec": (
        *("broker/codecs/", "services/", "loadtest/"),
        # What is built once per message is a Struct: a third of a dataclass's time.
        *(
            "broker/contracts/envelopes.py",
            "broker/messages.py",
            "broker/backends/nats/",
            "broker/telemetry/streams.py",
        ),
    ),
    "rich": ("services/demo/", "broker/cli/", "loadtest/"),
    "redis": ("broker/backends/redis/",),
    # A service that decides by an inbox writes its effects in the inbox's transaction.
    "sqlalchemy": ("broker/exactly_once/", "services/", "loadtest/"),
    "alembic": ("broker/exactly_once/",),
    "aiosqlite": ("broker/exactly_once/one_hop.py",),
    "pytest": ("broker/testing/",),
}

EXCEPTION = re.compile(
    r"""\#\s*(?:noqa\b(?P<noqa>:\s*[A-Z]+\d+(?:,\s*[A-Z]+\d+)*)?|type:\s*ignore\b(?P<ignore>\[[\w,\s-]+\])?)
        (?P<reason>.*\w\w.*)?""",
    re.VERBOSE,
)


def name_of(path):
    return path.relative_to(TOP).as_posix()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports_of(path):
    """Every module imported anywhere in the file, those under TYPE_CHECKING and in functions included."""
    return frozenset(_imports_of(path))


def _imports_of(path):
    package = path.relative_to(TOP).with_suffix("").parts[:-1]
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            yield ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def calls_of(path):
    return [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]


def test_there_is_something_to_check():
    assert len(LIBRARY) > 20


@pytest.mark.parametrize("vendor", HOMES)
def test_a_vendor_is_imported_only_at_home(vendor):
    strangers = [
        name_of(path)
        for path in SOURCES
        if vendor in {module.split(".")[0] for module in imports_of(path)}
        and not name_of(path).startswith(HOMES[vendor])
    ]
    assert not strangers, f"{vendor} belongs in {', '.join(HOMES[vendor])}"


def test_uvloop_is_for_programs():
    """In services only where a process is started."""
    for path in (TOP / "services").rglob("*.py"):
        if "uvloop" in imports_of(path):
            assert path.name in {"__main__.py", "process.py"}, name_of(path)


def test_contracts_import_nothing_of_ours():
    for path in (TOP / "broker/contracts").rglob("*.py"):
        ours = [m for m in imports_of(path) if m.split(".")[0] in {"broker", "services", "loadtest"}]
        assert [m for m in ours if not m.startswith("broker.contracts")] == [], name_of(path)


@pytest.mark.parametrize("room", ["broker/backends", "broker/codecs", "broker/telemetry", "broker/server"])
def test_rooms_below_the_facade_know_only_themselves_and_the_contracts(room):
    """import-linter checks the same direction; this one also sees imports it is told to ignore."""
    own = room.replace("/", ".")
    for path in (TOP / room).rglob("*.py"):
        for module in imports_of(path):
            if module.split(".")[0] == "broker":
                assert module.startswith((own, "broker.contracts", "broker.server")), f"{name_of(path)}: {module}"


@pytest.mark.parametrize(("link", "other"), [("wire", "natspy"), ("natspy", "wire")])
def test_the_links_do_not_know_each_other(link, other):
    """Each is the other's second opinion; what they have in common lies beside them."""
    room = "broker/backends/nats"
    assert list((TOP / room / link).glob("*.py"))
    for path in (TOP / room / link).rglob("*.py"):
        assert not [m for m in imports_of(path) if m.startswith(f"broker.backends.nats.{other}")], name_of(path)


def test_the_library_imports_no_service():
    assert [name_of(path) for path in LIBRARY if any(m.split(".")[0] == "services" for m in imports_of(path))] == []


def test_services_use_the_public_names_only():
    """A service is what a user writes: ``from broker import ...``, or a documented room by its own name."""
    public = {"broker", "broker.server", "broker.telemetry", "broker.testing", "broker.codecs", "broker.exactly_once"}
    for path in (TOP / "services").rglob("*.py"):
        inner = {m for m in imports_of(path) if m.split(".")[0] == "broker"} - public
        assert not inner, f"{name_of(path)} reaches into {inner}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_has_one_reason_to_change(path):
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST, f"{length} lines: two reasons to change share this room"


def test_nothing_is_a_drawer():
    """When a function has no home, the missing thing is a noun."""
    names = {part for path in SOURCES for part in path.relative_to(TOP).with_suffix("").parts}
    assert not {name for name in names if name.strip("_") in DRAWERS or name.endswith(("_utils", "_helpers"))}


def test_every_directory_is_a_package():
    for room in ("broker", "services"):
        for directory in {path.parent for path in (TOP / room).rglob("*.py")}:
            while directory != TOP:
                assert (directory / "__init__.py").is_file(), name_of(directory)
                directory = directory.parent  # noqa: PLW2901 - walks up to the top


@pytest.mark.parametrize("rules", RULES)
def test_rules_do_not_wait(rules):
    """They can be read, tested and replayed without a loop, a clock or a network."""
    waiting = (ast.Await, ast.AsyncFor, ast.AsyncWith, ast.AsyncFunctionDef)
    assert not [node.lineno for node in ast.walk(tree_of(TOP / rules)) if isinstance(node, waiting)]
    assert "asyncio" not in imports_of(TOP / rules)


def test_the_library_prints_nothing():
    """What it has to say it raises, returns, counts or logs. A command line may write."""
    for path in LIBRARY:
        if not name_of(path).startswith("broker/cli/"):
            printed = [
                call.lineno for call in calls_of(path) if isinstance(call.func, ast.Name) and call.func.id == "print"
            ]
            assert not printed, f"{name_of(path)}:{printed}"


def test_every_exception_to_the_rules_says_why():
    """A code, so that it hides one thing only, and a reason on the same line."""
    comments = (
        (f"{name_of(path)}:{number}", found)
        for path in EVERYTHING
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for found in EXCEPTION.finditer(line)
    )
    assert not [
        f"{where}: {each.group()}"
        for where, each in comments
        if not ((each["noqa"] or each["ignore"]) and each["reason"])
    ]


def test_no_assert_guards_what_a_caller_passes_in():
    """``python -O`` drops asserts: they narrow types and state what cannot be, and never test an argument."""
    for path in LIBRARY:
        if name_of(path).startswith("broker/testing/"):
            continue
        for function in ast.walk(tree_of(path)):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or function.name.startswith("_"):
                continue
            given = {a.arg for a in (*function.args.args, *function.args.kwonlyargs)} - {"self", "cls"}
            for check in (node for node in ast.walk(function) if isinstance(node, ast.Assert)):
                tested = {node.id for node in ast.walk(check.test) if isinstance(node, ast.Name)}
                assert not tested & given, f"{name_of(path)}:{check.lineno} asserts an argument"


def test_no_machine_is_written_down():
    """A path or a port of the machine it was written on works nowhere else."""
    for path in EVERYTHING:
        if path.name != "test_architecture.py":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"[\"'](/home/|/work/|/Users/|C:\\\\)", text), name_of(path)
