"""Which statements end a transaction."""

import sqlite3

import aiosqlite
import pytest

from broker.exactly_once.endings import Guard, ending, was_refused


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("COMMIT", "COMMIT"),
        ("  commit work;", "COMMIT"),
        ("/* done /* really */ */ COMMIT", "COMMIT"),
        ("-- it's done\nCOMMIT", "COMMIT"),
        ("SELECT 1; COMMIT", "COMMIT"),
        ("SELECT ';'; COMMIT", "COMMIT"),
        ("SELECT e'\\''; COMMIT", "COMMIT"),
        ("SELECT $a$ it's $a$; END", "END"),
        (";;ROLLBACK", "ROLLBACK"),
        ("ABORT TRANSACTION", "ABORT"),
        ("END", "END"),
        ("COMMIT AND CHAIN", "COMMIT"),
        ("PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION"),
        ("CREATE TABLE x (y int); COMMIT", "COMMIT"),
        ("CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; END; END", "END"),
    ],
)
def test_what_ends_a_transaction_is_found(statement, found):
    assert ending(statement) == found


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 'COMMIT'",
        "INSERT INTO x VALUES ('; COMMIT')",
        "INSERT INTO commits VALUES (1)",
        "/* COMMIT */ SELECT 1",
        "SELECT 1 -- ; COMMIT",
        'SELECT 1 AS "; COMMIT"',
        "SELECT $$; COMMIT$$",
        "SELECT $x$; COMMIT; $$ $x$",
        "SELECT E'\\'; COMMIT'",
        "ROLLBACK TO SAVEPOINT a",
        "ROLLBACK TRANSACTION TO a",
        "RELEASE SAVEPOINT a",
        "PREPARE x AS SELECT 1",
        "SELECT CASE WHEN 1 THEN 2\nEND",
        "CREATE TRIGGER t AFTER INSERT ON x BEGIN SELECT 1; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "CREATE FUNCTION f() RETURNS int AS $$ BEGIN x := 1; END; $$ LANGUAGE plpgsql",
        "",
        "/* COMMIT",
    ],
)
def test_what_does_not_end_a_transaction_is_let_through(statement):
    assert ending(statement) is None


def test_a_long_statement_is_read_as_well():
    assert ending(f"SELECT '{'x' * 10_000}'; COMMIT") == "COMMIT"


async def test_a_guard_lets_nothing_commit_and_nothing_begin_anew_while_it_is_shut():
    async with aiosqlite.connect(":memory:") as connection:
        guard = Guard(connection)
        await guard.stand()
        await connection.execute("CREATE TABLE paid (player TEXT)")
        await connection.execute("BEGIN IMMEDIATE")
        guard.shut = True
        await connection.execute("INSERT INTO paid VALUES ('ann')")
        for end in (connection.commit(), connection.execute("END"), connection.executescript("SELECT 1")):
            with pytest.raises(sqlite3.DatabaseError) as caught:
                await end
            assert was_refused(caught.value)
        await connection.execute("SAVEPOINT a")
        await connection.execute("RELEASE a")
        assert guard.in_transaction
        await connection.rollback()
        for begin in ("INSERT INTO paid VALUES ('bob')", "BEGIN", "SAVEPOINT b"):
            with pytest.raises(sqlite3.DatabaseError) as caught:
                await connection.execute(begin)
            assert was_refused(caught.value)
        guard.shut = False
        await connection.execute("INSERT INTO paid VALUES ('cid')")
        await connection.commit()
        paid = await connection.execute_fetchall("SELECT player FROM paid")
        assert list(paid) == [("cid",)]


async def test_a_guard_is_asked_anew_about_a_statement_that_was_kept():
    async with aiosqlite.connect(":memory:") as connection:
        guard = Guard(connection)
        await guard.stand()
        for statement in ("BEGIN", "COMMIT", "BEGIN IMMEDIATE"):
            await connection.execute(statement)
        guard.shut = True
        guard.ask_anew()
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            await connection.execute("COMMIT")
        await connection.rollback()
