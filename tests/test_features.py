"""docs/features.md: every claim of ours leads to a test that is run, and what is not there is called so."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "features.md"
COLUMNS = ["Feature", "nats.js v3", "nats.go", "nats-py", "natsrpy", "FastStream", "gamebroker"]
TABLE = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
PROOF = re.compile(r"\[`([\w.]+)`\]\(([^)#]+)\)")
END = r"(?=[\s,:;]|$)"
THEIRS = re.compile(rf"(yes|partly|by hand|no|n/a|\?){END}")
OURS = re.compile(rf"(yes|partly|no){END}")


def tables(text: str) -> list[list[list[str]]]:
    """Each table as its rows, the one of its columns first; each row as its cells."""
    found = []
    for block in TABLE.findall(text):
        head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in block.splitlines()]
        found.append([head, *rows])
    return found


def problems(text: str, folder: Path) -> list[str]:
    """What is wrong with a page in that folder, one line each."""
    return [
        f"{row[0]}: {problem}"
        for columns, *rows in tables(text)
        for row in rows
        for problem in problems_of_row(columns, row, folder)
    ]


def problems_of_row(columns: list[str], row: list[str], folder: Path) -> Iterator[str]:
    if len(row) != len(columns):
        yield f"{len(row)} cells under {len(columns)} columns"
        return
    for column, cell in zip(columns[1:-1], row[1:-1], strict=True):
        if not THEIRS.match(cell):
            yield f"{column} says {cell!r}"
    yield from problems_of_ours(row[-1], folder)


def problems_of_ours(cell: str, folder: Path) -> Iterator[str]:
    verdict = OURS.match(cell)
    if not verdict:
        yield f"neither yes, partly nor no: {cell!r}"
        return
    links = PROOF.findall(cell)
    if cell.count("](") != len(links):
        yield "a link names no test"
    if verdict[1] == "no" and links:
        yield "no, and yet there is proof"
    if verdict[1] != "no" and not links:
        yield f"{verdict[1]} without proof"
    for name, target in links:
        path = folder / target
        if not path.is_file():
            yield f"no such file: {target}"
        elif name not in proofs(path.resolve()):
            yield f"no test that is run: {name} in {target}"


@cache
def proofs(path: Path) -> frozenset[str]:
    """The tests in a file by name, those of a class as ``Class.test``, and every class that has some."""
    if not (path.name.startswith("test_") or path.parent.name == "conformance"):
        return frozenset()
    body = ast.parse(path.read_text()).body
    names = named_tests(body)
    for node in body:
        if isinstance(node, ast.ClassDef):
            inside = {f"{node.name}.{each}" for each in named_tests(node.body)}
            names |= inside | ({node.name} if inside else set())
    return frozenset(names)


def named_tests(body: list[ast.stmt]) -> set[str]:
    functions = {each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
    return {name for name in functions if name.startswith("test_")}


def test_every_claim_leads_to_its_test() -> None:
    assert problems(PAGE.read_text(), PAGE.parent) == []


def test_the_clients_stand_beside_each_other() -> None:
    clients, frameworks = tables(PAGE.read_text())
    assert clients[0] == COLUMNS
    assert frameworks[0] == ["Feature", "FastStream", "gamebroker"]


def test_a_feature_stands_once() -> None:
    features = [row[0] for table in tables(PAGE.read_text()) for row in table[1:]]
    assert len(features) == len(set(features)) > len(COLUMNS)


CODE = """
class TestA:
    async def test_b(self): ...

class Bare:
    x = 1

def test_c(): ...

def other(): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("test_a.py", "a.py"):
        (tmp_path / name).write_text(CODE)
    return tmp_path


@pytest.mark.parametrize(
    ("ours", "problem"),
    [
        ("yes", "yes without proof"),
        ("partly: not all", "partly without proof"),
        ("yes [`test_c`](test_gone.py)", "no such file: test_gone.py"),
        ("yes [`test_c`](a.py)", "no test that is run: test_c in a.py"),
        ("yes [`test_gone`](test_a.py)", "no test that is run: test_gone in test_a.py"),
        ("yes [`TestA.test_c`](test_a.py)", "no test that is run: TestA.test_c in test_a.py"),
        ("yes [`Bare`](test_a.py)", "no test that is run: Bare in test_a.py"),
        ("yes [`other`](test_a.py)", "no test that is run: other in test_a.py"),
        ("yes [`test_c`](test_a.py) [more](test_a.py)", "a link names no test"),
        ("no [`test_c`](test_a.py)", "no, and yet there is proof"),
        ("nothing", "neither yes, partly nor no: 'nothing'"),
        ("no | more", "4 cells under 3 columns"),
    ],
)
def test_a_claim_without_its_test_is_found(folder: Path, ours: str, problem: str) -> None:
    assert problems(f"| Feature | A | gamebroker |\n|---|---|---|\n| f | no | {ours} |\n", folder) == [f"f: {problem}"]


@pytest.mark.parametrize(
    "ours",
    ["yes [`TestA`](test_a.py)", "partly: [`TestA.test_b`](test_a.py), not all", "yes [`test_c`](test_a.py)", "no"],
)
def test_an_honest_row_passes(folder: Path, ours: str) -> None:
    assert problems(f"| Feature | A | gamebroker |\n|---|---|---|\n| f | ? | {ours} |\n", folder) == []


def test_a_word_of_no_meaning_is_found(folder: Path) -> None:
    row = "| Feature | A | gamebroker |\n|---|---|---|\n| f | Y | no |\n"
    assert problems(row, folder) == ["f: A says 'Y'"]
