"""Runs of the chaos harness as their processes would have written them, for its checker to judge."""

import asyncio
import sqlite3
from contextlib import closing

from loadtest.chaos import checker
from loadtest.chaos.books import BOOKS, GUARDS, guards, marks, postings
from loadtest.chaos.databases import SqliteDatabase
from loadtest.chaos.histories import Event, Fate, History, Op, digest_of
from loadtest.chaos.mutations import Mutation, Tampering
from loadtest.chaos.plan import Fault, Plan
from loadtest.chaos.report import judged_in
from loadtest.chaos.settlements import body_of, settlement_of

FAULTS = (Fault(1, 1.0, "kill-server", seconds=0.3), Fault(2, 2.0, "worker-kill", 1, detail="after_commit"))
PLAN = Plan(seed=1, mode="by hand", seconds=10.0, rate=10.0, faults=FAULTS)


def digest(key):
    return digest_of(body_of(settlement_of(key)))


class Run:
    """A run's directory, written as the processes would."""

    def __init__(self, directory, plan=PLAN, mutation=None):
        self.directory = directory
        plan.save(directory)
        self.mutation = mutation
        self.legs = Tampering(mutation).legs
        self.lines = {}
        asyncio.run(SqliteDatabase(directory).open(directory))

    def write(self, process, *lines):
        self.lines.setdefault(process, []).extend(lines)

    def sent(self, key, at=1.0, fate=Fate.EFFECT, outcome=Op.OK, digest=None):
        digest = digest or digest_of(body_of(settlement_of(key)))
        self.write("producer-1", Event(at, Op.START, key, digest, told=fate))
        if outcome is not None:
            self.write("producer-1", Event(at + 0.1, outcome, key, digest))

    def settled(self, *keys, at=1.2):
        fresh = [key for key in keys if self.mutation is Mutation.NAIVE or key not in self.applied()]
        self.book({key: body_of(settlement_of(key)) for key in fresh})
        for key in keys:
            self.write("worker-1.1", Event(at, Op.DELIVER, key, digest(key), attempt=1))
            op = Op.COMMIT if key in fresh else Op.REPEAT
            self.write("worker-1.1", Event(at, op, key, digest(key), attempt=1))

    def applied(self):
        with closing(sqlite3.connect(self.directory / BOOKS)) as db:
            return {key for (key,) in db.execute("SELECT key FROM gamebroker_inbox")}

    def book(self, bodies):
        writes = postings([settlement_of(key) for key in bodies], self.legs)
        with closing(sqlite3.connect(self.directory / BOOKS)) as db, db:
            for write in [marks([(key, body, 1) for key, body in bodies.items()]), *writes]:
                db.executemany(write.statement, write.rows)

    def struck(self, number, begun, healed, *, fired=True):
        self.write("director", Event(begun, Op.FAULT, number=number, told="kind"))
        if fired:
            self.write("director", Event(begun + 0.01, Op.FIRED, number=number, told="seen to be gone"))
        else:
            self.write("director", Event(begun + 0.01, Op.TROUBLE, number=number, told="it was not there"))
        self.write("director", Event(healed, Op.HEALED, number=number))

    def lived(self, process, *, begun=0.0, ended=5.0, why="asked", code=0, took=0.2, until=None, blind=False):
        self.write("director", Event(begun, Op.BEGUN, process))
        self.write("director", Event(ended, Op.ENDED, process, told=why, counts={"code": code, "seconds": took}))
        self.write(process, Event(begun + 0.1, Op.STATUS, told="connected"))
        if begun < 1.0 and not blind:
            self.write(process, Event(1.05, Op.STATUS, told="reconnecting"), Event(1.5, Op.STATUS, told="connected"))
        for half in range(int((until or ended) * 2)):
            self.write(process, Event(begun + half / 2, Op.BEAT, counts={"rss": 50 << 20}))

    def left(self, waiting=0):
        self.write("census", Event(6.0, Op.LEFT, counts={"pending": waiting, "ack_pending": 0}))

    def letter(self, key, reason, digest=None):
        self.write("census", Event(6.0, Op.LETTER, key, digest or digest_of(body_of(settlement_of(key))), told=reason))

    def fine(self):
        """Everything as it should be, but for nothing left."""
        for n in range(20):
            self.sent(f"k{n}", at=0.5 + n / 10)
        self.settled(*(f"k{n}" for n in range(20)))
        self.settled("k3")
        self.struck(1, 1.0, 1.4)
        self.struck(2, 2.0, 2.2)
        for process in ("producer-1", "worker-2.1"):
            self.lived(process)
        self.lived("worker-1.1", ended=2.1, why="killed", code=-9)
        self.left()
        return self

    def tamper(self, *statements):
        with closing(sqlite3.connect(self.directory / BOOKS)) as db, db:
            for name in GUARDS:
                db.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                db.execute(statement)
            db.commit()
            db.executescript(guards())

    def check(self):
        """The exit code and the verdict."""
        for process, lines in self.lines.items():
            with History(self.directory, process) as history:
                history.write_many(lines)
        code = checker.main([str(self.directory)])
        return code, judged_in(self.directory).verdict
