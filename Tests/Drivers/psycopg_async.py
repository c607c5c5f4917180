"""What programs do with psycopg 3 and asyncio: psycopg_async.py HOST PORT."""

import asyncio
import decimal

import psycopg
from psycopg import errors
from psycopg.rows import class_row

from checks import ACCOUNTS, CONNINFO, equal, raises, run, true

RETRYABLE = (errors.SerializationFailure, errors.DeadlockDetected)


async def connect(**options):
    return await psycopg.AsyncConnection.connect(CONNINFO, **options)


async def makes_tables():
    """a table is made and filled through a pipeline"""
    async with await connect() as conn:
        await conn.execute("CREATE TABLE account (id bigint PRIMARY KEY, balance numeric(12,2) NOT NULL)")
        async with conn.pipeline():
            for key in ACCOUNTS:
                await conn.execute("INSERT INTO account VALUES (%s, 100)", [key])
        found = await (await conn.execute("SELECT count(*), sum(balance) FROM account")).fetchone()
        equal(found, (30, decimal.Decimal("3000.00")))


async def transfers():
    """clients that transfer between all accounts at once get through by retrying, and every sum they read is right"""
    async def client(number):
        async with await connect() as conn:
            await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
            for turn in range(10):
                source, target = sorted(((number * 7 + turn) % 30 + 1, (number * 11 + turn * 5 + 3) % 30 + 1))
                if source == target:
                    continue
                for attempt in range(50):
                    try:
                        async with conn.transaction():
                            await conn.execute("UPDATE account SET balance = balance - 1 WHERE id = %s", [source])
                            await conn.execute("UPDATE account SET balance = balance + 1 WHERE id = %s", [target])
                        break
                    except RETRYABLE:
                        await asyncio.sleep(0.002 * attempt)
                else:
                    raise AssertionError("a transfer did not get through in 50 attempts")

    async def auditor():
        async with await connect(autocommit=True) as conn:
            for _ in range(20):
                found = await (await conn.execute("SELECT sum(balance) FROM account")).fetchone()
                equal(found, (decimal.Decimal("3000.00"),), "a sum during transfers")

    await asyncio.gather(*(client(number) for number in range(5)), auditor())


class Account:
    def __init__(self, id, balance):
        self.id, self.balance = id, balance


async def rows():
    """rows come as objects, and one by one while they arrive"""
    async with await connect() as conn:
        async with conn.cursor(row_factory=class_row(Account), binary=True) as cur:
            await cur.execute("SELECT * FROM account ORDER BY id")
            equal([account.id async for account in cur], list(ACCOUNTS))
            count = 0
            async for account in cur.stream("SELECT * FROM account"):
                count += account.id > 0
            equal(count, 30, "streamed rows")


async def nested():
    """an inner transaction that fails is undone alone"""
    async with await connect() as conn:
        async with conn.transaction():
            await conn.execute("UPDATE account SET balance = balance + 1000 WHERE id IN (1, 2, 3)")
            with raises(errors.CheckViolation):
                async with conn.transaction():
                    await conn.execute("UPDATE account SET balance = 0")
                    raise errors.CheckViolation("made up")
            found = await (await conn.execute("SELECT count(*) FROM account WHERE balance > 900")).fetchone()
            equal(found, (3,))
            raise psycopg.Rollback()
        found = await (await conn.execute("SELECT sum(balance) FROM account")).fetchone()
        equal(found, (decimal.Decimal("3000.00"),), "the sum after a rollback")


async def cancels():
    """a task that is cancelled has its statement cancelled; the session lives on"""
    async with await connect(autocommit=True) as conn:
        async def sleep():
            with raises(errors.QueryCanceled, "57014"):
                await conn.execute("SELECT pg_sleep(30)")
        sleeping = asyncio.create_task(sleep())
        await asyncio.sleep(0.5)
        conn.cancel()
        await asyncio.wait_for(sleeping, 10)
        equal(await (await conn.execute("SELECT 1")).fetchone(), (1,))


async def pipelines():
    """the answers of a pipeline come while it is still being sent"""
    async with await connect(autocommit=True) as conn:
        async with conn.pipeline() as pipeline:
            cursors = []
            for key in range(300):
                cursors.append(await conn.execute("SELECT id FROM account WHERE id = %s", [key % 30 + 1]))
            await pipeline.sync()
            for key, cur in enumerate(cursors):
                equal(await cur.fetchone(), (key % 30 + 1,))
        true(not conn.closed, "the connection is closed")


def each(*checks):
    """As synchronous checks, each in an event loop of its own."""
    def make(check):
        def checked():
            asyncio.run(check())
        checked.__name__, checked.__doc__ = check.__name__, check.__doc__
        return checked
    return [make(check) for check in checks]


if __name__ == "__main__":
    run(each(makes_tables, transfers, rows, nested, cancels, pipelines))
