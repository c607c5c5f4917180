"""What programs do with asyncpg: asyncpg_pool.py HOST PORT."""

import asyncio
import datetime
import decimal
import ipaddress
import json
import uuid

import asyncpg

from checks import ACCOUNTS, DATABASE, HOST, PORT, USER, equal, raises, run, true

RETRYABLE = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
PLACE = {"host": HOST, "port": PORT, "user": USER, "database": DATABASE}


async def makes_tables(conn):
    """tables are made by scripts, and filled by executemany in one transaction"""
    await conn.execute("""
        CREATE TABLE account (id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(12,2) NOT NULL);
        CREATE TABLE journal (account bigint, entry int, amount numeric(12,2), PRIMARY KEY (account, entry));
    """)
    await conn.executemany(
        "INSERT INTO account VALUES ($1, $2, $3)", [(key, f"owner {key}", decimal.Decimal(100)) for key in ACCOUNTS])
    equal(await conn.fetchval("SELECT count(*) FROM account"), 30)
    with raises(asyncpg.UniqueViolationError):
        await conn.executemany("INSERT INTO account VALUES ($1, 'x', 0)", [(100,), (101,), (1,), (102,)])
    equal(await conn.fetchval("SELECT count(*) FROM account"), 30, "accounts after a batch that failed")
    rows = await conn.fetch("SELECT * FROM account WHERE id = ANY($1::bigint[]) ORDER BY id", [3, 1, 99])
    equal([dict(row) for row in rows],
          [{"id": key, "owner": f"owner {key}", "balance": decimal.Decimal(100)} for key in (1, 3)])
    equal(await conn.execute("UPDATE account SET owner = owner WHERE id < 4"), "UPDATE 3")


async def prepared(conn):
    """a prepared statement tells its parameters and columns, and runs with many values"""
    statement = await conn.prepare("SELECT id, owner, balance FROM account WHERE id = $1")
    equal([parameter.name for parameter in statement.get_parameters()], ["int8"])
    equal([(column.name, column.type.name) for column in statement.get_attributes()],
          [("id", "int8"), ("owner", "text"), ("balance", "numeric")])
    for key in ACCOUNTS:
        equal((await statement.fetchrow(key))["id"], key)
    equal(await statement.fetch(77), [])
    equal(statement.get_statusmsg(), "SELECT 0")
    equal(await statement.fetchval(5, column=1), "owner 5")
    update = await conn.prepare("UPDATE account SET balance = balance + $2 WHERE id = $1 RETURNING balance")
    equal(await update.fetchval(6, decimal.Decimal("0.50")), decimal.Decimal("100.50"))
    equal(await update.fetchval(6, decimal.Decimal("-0.50")), decimal.Decimal("100.00"))
    plan = await statement.explain(1)
    true(plan, "no plan was given")


async def transactions(conn):
    """transactions of every kind, nested ones too, are undone and kept over all shards"""
    async with conn.transaction(isolation="serializable"):
        await conn.execute("UPDATE account SET balance = balance - 10 WHERE id = 1")
        await conn.execute("UPDATE account SET balance = balance + 10 WHERE id = 2")
        await conn.execute("INSERT INTO journal VALUES (1, 1, -10), (2, 1, 10)")
        with raises(asyncpg.UniqueViolationError):
            async with conn.transaction():
                await conn.execute("DELETE FROM journal")
                await conn.execute("INSERT INTO account VALUES (3, 'twice', 0)")
        equal(await conn.fetchval("SELECT count(*) FROM journal"), 2, "rows after an inner rollback")
    equal(await conn.fetchval("SELECT balance FROM account WHERE id = 2"), decimal.Decimal(110))
    with raises(ZeroDivisionError):
        async with conn.transaction():
            await conn.execute("UPDATE account SET balance = 0")
            raise ZeroDivisionError
    equal(await conn.fetchval("SELECT sum(balance) FROM account"), decimal.Decimal(3000))
    with raises(asyncpg.ReadOnlySQLTransactionError):
        async with conn.transaction(isolation="serializable", readonly=True, deferrable=True):
            equal(await conn.fetchval("SELECT count(*) FROM account"), 30)
            await conn.execute("DELETE FROM account")
    with raises(asyncpg.InFailedSQLTransactionError):
        async with conn.transaction():
            with raises(asyncpg.UndefinedTableError):
                await conn.fetch("SELECT * FROM nowhere")
            await conn.fetch("SELECT 1")


async def cursors(conn):
    """rows are fetched in parts by a portal, in the order asked for"""
    async with conn.transaction():
        found = []
        async for row in conn.cursor("SELECT id FROM account ORDER BY id DESC", prefetch=7):
            found.append(row["id"])
        equal(found, list(reversed(ACCOUNTS)))
        cursor = await conn.cursor("SELECT id FROM account WHERE id > $1 ORDER BY id", 10)
        equal((await cursor.fetchrow())["id"], 11)
        equal([row["id"] for row in await cursor.fetch(3)], [12, 13, 14])
        equal([row["id"] for row in await cursor.fetch(100)], list(range(15, 31)))
        equal(await cursor.fetch(1), [])


VALUES = [
    ("bool", False), ("int2", -7), ("int4", 1 << 30), ("int8", -(1 << 62)), ("float4", -0.25), ("float8", 1e300),
    ("numeric", decimal.Decimal("-98765432109876543210.0001")), ("text", "ß ' \\ \n"), ("varchar", "v"),
    ("bytea", bytes(range(256))), ("uuid", uuid.UUID(int=5)), ("date", datetime.date(1999, 12, 31)),
    ("timestamp", datetime.datetime(2026, 1, 2, 3, 4, 5, 678)), ("time", datetime.time(1, 2, 3, 4)),
    ("timestamptz", datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.timezone.utc)),
    ("interval", datetime.timedelta(days=2, seconds=3)), ("inet", ipaddress.ip_interface("10.1.2.3/24")),
    ("json", '{"a": [1, null]}'), ("jsonb", '{"a": [1, null]}'), ("int4[]", [1, None, 3]), ("text[]", ["a", "", None]),
    ("numeric[]", [decimal.Decimal("0.5")]), ("int4range", asyncpg.Range(1, 5)), ("point", asyncpg.Point(1.5, -2)),
    ("varbit", asyncpg.BitString("10110")), ("timestamptz[]", []), ("uuid[]", [uuid.UUID(int=1), None]),
]


async def types(conn):
    """values of every type come back from tables as they were sent"""
    columns = [f"c{number}" for number in range(len(VALUES))]
    await conn.execute("CREATE TABLE every_type (id int PRIMARY KEY, {})".format(
        ", ".join(f"{column} {kind}" for column, (kind, _) in zip(columns, VALUES))))
    places = ", ".join(f"${number + 2}" for number in range(len(VALUES)))
    for key in range(6):
        await conn.execute(f"INSERT INTO every_type VALUES ($1, {places})", key, *(value for _, value in VALUES))
    await conn.execute("INSERT INTO every_type (id) VALUES (6)")
    for key in range(6):
        row = await conn.fetchrow("SELECT * FROM every_type WHERE id = $1", key)
        for column, (kind, value) in zip(columns, VALUES):
            equal(row[column], value, kind)
    row = await conn.fetchrow("SELECT * FROM every_type WHERE id = 6")
    equal(list(row.values())[1:], [None] * len(VALUES))
    for column, (kind, value) in zip(columns, VALUES):
        if kind not in ("json", "point"):
            equal(await conn.fetchval(f"SELECT count(*) FROM every_type WHERE {column} = $1", value), 6, kind)


async def own_types(conn):
    """enumerations, composite types, domains and their arrays are looked up and read"""
    await conn.execute("""
        CREATE TYPE mood AS ENUM ('happy', 'sad'); CREATE TYPE place AS (x int, name text, moods mood[]);
        CREATE DOMAIN positive AS int CHECK (value > 0);
        CREATE TABLE visit (id int PRIMARY KEY, mood mood, place place, moods mood[], number positive);
    """)
    for key in range(6):
        await conn.execute(
            "INSERT INTO visit VALUES ($1, $2, $3, $4, $5)", key, "sad", (7, "here", ["happy"]), ["sad", "happy"], 5)
    rows = await conn.fetch("SELECT * FROM visit ORDER BY id")
    equal(len(rows), 6)
    for row in rows:
        equal((row["mood"], tuple(row["place"]), row["moods"], row["number"]),
              ("sad", (7, "here", ["happy"]), ["sad", "happy"], 5))
        equal(row["place"]["name"], "here")
    with raises(asyncpg.CheckViolationError):
        await conn.execute("UPDATE visit SET number = -1 WHERE id = 2")
    equal(await conn.fetchval("SELECT mood FROM visit WHERE mood = $1::mood LIMIT 1", "sad"), "sad")


async def own_codecs(conn):
    """a codec that takes one column as text beside binary ones gets it as the server writes it"""
    await conn.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    await conn.set_type_codec("interval", schema="pg_catalog", encoder=str, decoder=str, format="text")
    await conn.set_type_codec("inet", schema="pg_catalog", encoder=str, decoder=str, format="text")
    await conn.set_type_codec("mood", encoder=str, decoder=str.upper, format="text")
    row = await conn.fetchrow("SELECT id, c15, c16, c18, c2, c19, c24 FROM every_type WHERE id = 3")
    equal(tuple(row), (3, "2 days 00:00:03", "10.1.2.3/24", {"a": [1, None]}, 1 << 30, [1, None, 3],
                       asyncpg.BitString("10110")))
    rows = await conn.fetch("SELECT id, c15, c16 FROM every_type ORDER BY id")
    equal([(row["c15"], row["c16"]) for row in rows], [("2 days 00:00:03", "10.1.2.3/24")] * 6 + [(None, None)])
    row = await conn.fetchrow("UPDATE every_type SET c16 = $2 WHERE id = $1 RETURNING c1, c16", 4, "::1")
    equal(tuple(row), (-7, "::1"))
    rows = await conn.fetch("SELECT id, mood, moods FROM visit WHERE id < 3 ORDER BY id")
    equal([tuple(row) for row in rows], [(key, "SAD", ["SAD", "HAPPY"]) for key in range(3)])


async def temporary_tables(conn):
    """a temporary table takes rows by COPY, and is used beside the tables of all shards"""
    await conn.execute("CREATE TEMP TABLE fresh (id bigint, owner text)")
    records = [(key, f"fresh {key}") for key in ACCOUNTS]
    equal(await conn.copy_records_to_table("fresh", records=records, schema_name="pg_temp"), "COPY 30")
    async with conn.transaction():
        await conn.execute("UPDATE account SET balance = balance + 1")
        await conn.execute("DELETE FROM fresh WHERE id > $1", 20)
    equal(await conn.fetchval("SELECT owner FROM fresh WHERE id = $1", 20), "fresh 20")
    upsert = """
        INSERT INTO account SELECT id, owner, 100 FROM fresh
        ON CONFLICT (id) DO UPDATE SET owner = excluded.owner, balance = account.balance - 1 RETURNING id
    """
    equal(sorted(row["id"] for row in await conn.fetch(upsert)), list(range(1, 21)))
    await conn.execute("UPDATE account SET owner = 'owner ' || id")
    await conn.execute("UPDATE account SET balance = balance - 1 WHERE id > 20")
    await conn.execute("DROP TABLE fresh")


async def listens(conn):
    """a listener is called with what others notify, until it is removed"""
    heard = asyncio.Queue()
    def listener(_, __, channel, payload):
        heard.put_nowait((channel, payload))
    await conn.add_listener("news", listener)
    other = await asyncpg.connect(**PLACE)
    async with other.transaction():
        await other.execute("UPDATE account SET balance = balance")
        await other.execute("SELECT pg_notify($1, $2)", "news", "first")
        await other.execute("NOTIFY news, 'second'")
        true(heard.empty(), "it was told before the commit")
    equal([await asyncio.wait_for(heard.get(), 60) for _ in range(2)], [("news", "first"), ("news", "second")])
    await conn.execute("NOTIFY news, 'own'")
    equal(await asyncio.wait_for(heard.get(), 60), ("news", "own"))
    await conn.remove_listener("news", listener)
    await other.close()


async def timeouts(conn):
    """a call's timeout cancels its statement, and the session lives on"""
    with raises(asyncio.TimeoutError):
        await conn.fetch("SELECT pg_sleep(30)", timeout=0.5)
    equal(await conn.fetchval("SELECT count(*) FROM account"), 30)
    await conn.execute("SET statement_timeout = '300ms'")
    with raises(asyncpg.QueryCanceledError):
        await conn.fetch("SELECT pg_sleep(30)")
    await conn.execute("RESET statement_timeout")


async def schema_changes(conn):
    """a statement prepared before a change of its table is prepared anew"""
    equal(await conn.fetchval("SELECT amount FROM journal WHERE account = $1", 1), decimal.Decimal(-10))
    await conn.execute("ALTER TABLE journal ALTER COLUMN amount TYPE float8")
    equal(await conn.fetchval("SELECT amount FROM journal WHERE account = $1", 1), -10.0)


async def with_connection(check):
    conn = await asyncpg.connect(**PLACE)
    try:
        await check(conn)
    finally:
        await conn.close()


async def pooled():
    """clients of a pool transfer between all shards; connections come back to it as new"""
    async with asyncpg.create_pool(min_size=2, max_size=4, **PLACE) as pool:
        async def transfer(number):
            source, target = sorted((number * 7 % 30 + 1, number * 11 % 29 + 1))
            for attempt in range(50):
                try:
                    async with pool.acquire() as conn, conn.transaction(isolation="serializable"):
                        await conn.execute("UPDATE account SET balance = balance - 1 WHERE id = $1", source)
                        await conn.execute("UPDATE account SET balance = balance + 1 WHERE id = $1", target)
                    return
                except RETRYABLE:
                    await asyncio.sleep(0.002 * attempt)
            raise AssertionError("a transfer did not get through in 50 attempts")

        await asyncio.gather(*(transfer(number) for number in range(40)))
        equal(await pool.fetchval("SELECT sum(balance) FROM account"), decimal.Decimal(3000))
        async with pool.acquire() as conn:
            await conn.execute("SET TimeZone = 'Asia/Tokyo'")
        zones = [await pool.fetchval("SELECT current_setting('TimeZone')") for _ in range(8)]
        true("Asia/Tokyo" not in zones, f"a setting outlived its owner: {zones}")


def synchronous(check, task):
    def checked():
        asyncio.run(task())
    checked.__name__, checked.__doc__ = check.__name__, check.__doc__
    return checked


if __name__ == "__main__":
    single = [
        makes_tables, prepared, transactions, cursors, types, own_types, own_codecs, temporary_tables, listens,
        timeouts, schema_changes,
    ]
    run([synchronous(check, lambda check=check: with_connection(check)) for check in single]
        + [synchronous(pooled, pooled)])
