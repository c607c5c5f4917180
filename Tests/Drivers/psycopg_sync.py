"""What programs do with psycopg 3: psycopg_sync.py HOST PORT. COPY is not among it."""

import datetime
import decimal
import enum
import threading
import time
import uuid

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row, namedtuple_row
from psycopg.types.composite import CompositeInfo, register_composite
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import Json, Jsonb

from checks import ACCOUNTS, CONNINFO, equal, raises, retrying, run, true

RETRYABLE = (errors.SerializationFailure, errors.DeadlockDetected)


def connect(**options):
    return psycopg.connect(CONNINFO, **options)


def makes_tables():
    """tables are made and filled by executemany, with and without RETURNING"""
    with connect() as conn:
        conn.execute("CREATE TABLE account (id bigint PRIMARY KEY, owner text NOT NULL, balance numeric(12,2))")
        with conn.cursor() as cur:
            cur.executemany(
                "INSERT INTO account VALUES (%s, %s, %s)",
                [(i, f"owner {i}", decimal.Decimal("100.00")) for i in ACCOUNTS])
            equal(cur.rowcount, len(ACCOUNTS), "rows of executemany")
            found = cur.execute("SELECT count(*), sum(balance) FROM account").fetchone()
            equal(found, (30, decimal.Decimal("3000.00")))
        conn.execute("CREATE TABLE note (id int PRIMARY KEY, words text)")
        with conn.cursor() as cur:
            cur.executemany(
                "INSERT INTO note VALUES (%s, %s) RETURNING id, upper(words)", [(i, f"n{i}") for i in range(6)],
                returning=True)
            found = []
            while True:
                found += cur.fetchall()
                if not cur.nextset():
                    break
            equal(found, [(i, f"N{i}") for i in range(6)], "what executemany returned")
    with connect() as conn:
        equal(conn.execute("SELECT count(*) FROM account").fetchone(), (30,), "committed accounts")


def transfers():
    """a transaction over two shards commits whole or not at all, and another session sees it then"""
    with connect() as one, connect(autocommit=True) as other:
        with one.transaction():
            one.execute("UPDATE account SET balance = balance - 25 WHERE id = 1")
            one.execute("UPDATE account SET balance = balance + 25 WHERE id = 2")
            seen = other.execute("SELECT sum(balance), max(balance) FROM account").fetchone()
            equal(seen, (decimal.Decimal("3000.00"), decimal.Decimal("100.00")), "what others see before the commit")
        seen = other.execute("SELECT balance FROM account WHERE id IN (1, 2) ORDER BY id").fetchall()
        equal(seen, [(decimal.Decimal("75.00"),), (decimal.Decimal("125.00"),)], "what others see after it")
        one.commit()
        with raises(ZeroDivisionError):
            with one.transaction():
                one.execute("UPDATE account SET balance = 0")
                raise ZeroDivisionError
        seen = other.execute("SELECT sum(balance) FROM account").fetchone()
        equal(seen, (decimal.Decimal("3000.00"),), "the sum after a rollback")


def savepoints():
    """an error in a nested transaction undoes that one alone, on every shard"""
    with connect() as conn:
        with conn.transaction():
            conn.execute("UPDATE account SET owner = 'outer' WHERE id IN (3, 4, 5)")
            with raises(errors.UniqueViolation):
                with conn.transaction("inner"):
                    conn.execute("UPDATE account SET owner = 'inner' WHERE id IN (3, 4, 5, 6)")
                    conn.execute("INSERT INTO account VALUES (7, 'twice', 0)")
            with conn.transaction():
                conn.execute("UPDATE account SET owner = 'second' WHERE id = 5")
            with conn.transaction(force_rollback=True):
                conn.execute("DELETE FROM account")
        rows = conn.execute("SELECT id, owner FROM account WHERE id BETWEEN 3 AND 6 ORDER BY id").fetchall()
        equal(rows, [(3, "outer"), (4, "outer"), (5, "second"), (6, "owner 6")])


class Mood(enum.Enum):
    happy = "happy"
    sad = "sad"


TYPES = {
    "bool": True, "int2": -32768, "int4": 2147483647, "int8": -9223372036854775808, "float4": 0.5,
    "float8": 1.0e-300, "numeric": decimal.Decimal("12345678901234567890.000123"), "text": "Zeile\n'\"\\ €",
    "varchar(20)": "Wörter", "char(5)": "ab   ", "name": "a name", "bytea": bytes(range(256)),
    "date": datetime.date(2026, 2, 28), "time": datetime.time(23, 59, 59, 999999),
    "timestamp": datetime.datetime(2026, 11, 25, 7, 8, 9, 123456),
    "timestamptz": datetime.datetime(2026, 11, 25, 7, 8, 9, 123456, tzinfo=datetime.timezone.utc),
    "interval": datetime.timedelta(days=3, seconds=4, microseconds=5),
    "uuid": uuid.UUID("12345678-1234-5678-1234-567812345678"), "int4[]": [1, None, 3], "text[]": ["a", "b,\"c\"", ""],
    "numeric[]": [decimal.Decimal("1.5"), decimal.Decimal("-2")], "bytea[]": [b"\x00", b"\xff"],
    "timestamptz[]": [datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)], "int4[][]": [[1, 2], [3, 4]],
}


def types():
    """values of every type come back as they were sent, in text and in binary, whichever way they go"""
    columns = [f"c{i}" for i in range(len(TYPES))]
    definition = ", ".join(f"{column} {type}" for column, type in zip(columns, TYPES))
    with connect() as conn:
        conn.execute("SET TimeZone = 'UTC'")
        conn.execute(f"CREATE TABLE every_type (id int PRIMARY KEY, {definition}, j json, b jsonb)")
        document = {"a": [1, 2.5, None], "ü": "€"}
        key = 0
        for placeholder in ("%s", "%t", "%b"):
            for values in (list(TYPES.values()), [None] * len(TYPES)):
                key += 1
                places = ", ".join(f"{placeholder}::{type}" for type in TYPES)
                conn.execute(
                    f"INSERT INTO every_type VALUES ({placeholder}, {places}, {placeholder}, {placeholder})",
                    [key, *values, Json(document), Jsonb(document)])
                for binary in (False, True):
                    cur = conn.cursor(binary=binary)
                    row = cur.execute("SELECT * FROM every_type WHERE id = %s", [key]).fetchone()
                    equal(list(row[1:-2]), values, f"{placeholder}, binary {binary}")
                    equal(row[-2:], (document, document), "json and jsonb")
        count = conn.execute("SELECT count(*) FROM every_type WHERE c11 = %b", [bytes(range(256))]).fetchone()
        equal(count, (3,), "rows found by a binary value")


def registers_types():
    """enumerations and composite types that a program registers are its own in both formats"""
    with connect(autocommit=True) as conn:
        conn.execute("CREATE TYPE mood AS ENUM ('happy', 'sad')")
        conn.execute("CREATE TYPE place AS (x int, name text)")
        conn.execute("CREATE TABLE visit (id int PRIMARY KEY, mood mood, place place, moods mood[])")
        info = EnumInfo.fetch(conn, "mood")
        true(info is not None and list(info.labels) == ["happy", "sad"], f"the enumeration's labels are {info}")
        register_enum(info, conn, Mood)
        place = CompositeInfo.fetch(conn, "place")
        equal(list(place.field_names), ["x", "name"])
        register_composite(place, conn)
        here = place.python_type(7, "here")
        for key in range(8):
            conn.execute(
                "INSERT INTO visit VALUES (%s, %s, %s, %s)", [key, Mood.sad, here, [Mood.happy, Mood.sad]])
        for binary in (False, True):
            cur = conn.cursor(binary=binary)
            for row in cur.execute("SELECT mood, place, moods FROM visit"):
                equal(row, (Mood.sad, here, [Mood.happy, Mood.sad]))


def rows():
    """rows come as dictionaries and named tuples, with the columns described"""
    with connect() as conn:
        cur = conn.cursor(row_factory=dict_row)
        equal(cur.execute("SELECT id, owner FROM account WHERE id = 9").fetchone(), {"id": 9, "owner": "owner 9"})
        cur = conn.cursor(row_factory=namedtuple_row)
        equal(cur.execute("SELECT max(id) AS top FROM account").fetchone().top, 30)
        equal([(c.name, c.type_code) for c in cur.execute("SELECT id, owner, balance FROM account").description],
              [("id", 20), ("owner", 25), ("balance", 1700)])
        equal(cur.description[2].precision, 12, "the numeric's precision")
        equal(sum(1 for _ in cur.stream("SELECT id FROM account")), 30, "streamed rows")
        cur = conn.execute("SELECT 1; SELECT 2, 3")
        equal((cur.fetchall(), cur.nextset(), cur.fetchall(), cur.nextset()), ([(1,)], True, [(2, 3)], None))
        query = sql.SQL("SELECT {} FROM {} WHERE {} = ANY(%s) ORDER BY 1").format(
            sql.Identifier("id"), sql.Identifier("public", "account"), sql.Identifier("id"))
        equal(conn.execute(query, [[3, 1, 2, 99]]).fetchall(), [(1,), (2,), (3,)], "= ANY of an array")


def pipelines():
    """a pipeline's statements are answered in order; after an error the rest up to the Sync is not run"""
    with connect(autocommit=True) as conn:
        with conn.pipeline():
            cursors = [conn.execute("SELECT balance FROM account WHERE id = %s", [key]) for key in ACCOUNTS]
            changed = conn.execute("UPDATE account SET owner = 'pipelined' WHERE id = 8 RETURNING id")
            equal(sum(cur.fetchone()[0] for cur in cursors), decimal.Decimal("3000.00"), "the sum of a pipeline's rows")
            equal(changed.fetchone(), (8,))
        with raises(errors.UniqueViolation):
            with conn.pipeline():
                conn.execute("UPDATE account SET owner = 'lost' WHERE id = 10")
                conn.execute("INSERT INTO account VALUES (1, 'twice', 0)")
                conn.execute("UPDATE account SET owner = 'lost' WHERE id = 11")
        found = conn.execute("SELECT owner FROM account WHERE id IN (10, 11) ORDER BY id").fetchall()
        equal(found, [("owner 10",), ("owner 11",)], "an implicit transaction that failed")
        with conn.pipeline() as pipeline:
            conn.execute("UPDATE account SET owner = 'kept' WHERE id = 10")
            pipeline.sync()
            with raises(errors.UndefinedTable):
                conn.execute("SELECT * FROM nowhere")
                pipeline.sync()
            conn.execute("UPDATE account SET owner = 'kept' WHERE id = 11")
        found = conn.execute("SELECT owner FROM account WHERE id IN (10, 11) ORDER BY id").fetchall()
        equal(found, [("kept",), ("kept",)], "what stood before and behind the failed part")
    with connect() as conn:
        with conn.pipeline(), conn.transaction():
            for key in (12, 13, 14):
                conn.execute("UPDATE account SET balance = balance WHERE id = %s", [key])
            equal(conn.execute("SELECT count(*) FROM account").fetchone(), (30,), "a read in a pipelined transaction")


def prepared():
    """statements are prepared after some uses, and see changes of the schema"""
    with connect(prepare_threshold=2) as conn:
        for turn in range(12):
            key = turn % 5 + 1
            found = conn.execute("SELECT id, owner FROM account WHERE id = %s", [key]).fetchone()
            equal(found[0], key)
            conn.execute("UPDATE note SET words = %s WHERE id = %s", [f"turn {turn}", key])
        names = conn.execute("SELECT statement FROM pg_prepared_statements ORDER BY 1").fetchall()
        true(any("FROM account WHERE id = $1" in row[0] for row in names), f"prepared are {names}")
        conn.commit()
        conn.execute("ALTER TABLE note ADD COLUMN more int DEFAULT 5")
        conn.commit()
        for _ in range(6):
            equal(conn.execute("SELECT more FROM note WHERE id = %s", [2]).fetchone(), (5,))
        conn.execute("DEALLOCATE ALL")
        equal(conn.execute("SELECT count(*) FROM pg_prepared_statements", prepare=False).fetchone(), (0,))


def cancels():
    """a cancel request ends a statement within a second or two; the session lives on"""
    with connect() as conn:
        timer = threading.Timer(0.5, conn.cancel)
        timer.start()
        begun = time.monotonic()
        with raises(errors.QueryCanceled, "57014"):
            conn.execute("SELECT pg_sleep(30)")
        true(time.monotonic() - begun < 10, "cancelling took 10 s")
        equal(conn.info.transaction_status, TransactionStatus.INERROR)
        conn.rollback()
        equal(conn.execute("SELECT count(*) FROM account").fetchone(), (30,))
    with connect() as one, connect() as two:
        one.execute("UPDATE account SET owner = 'locked' WHERE id = 15")
        timer = threading.Timer(0.5, two.cancel)
        timer.start()
        with raises(errors.QueryCanceled):
            two.execute("UPDATE account SET owner = 'waits' WHERE id = 15")
        two.rollback()
        one.rollback()
        two.execute("UPDATE account SET owner = 'free' WHERE id = 15")


def fails_like_postgres():
    """errors carry what PostgreSQL says of them: SQLSTATE, table, constraint, position"""
    with connect(autocommit=True) as conn:
        with raises(errors.UniqueViolation) as failure:
            conn.execute("INSERT INTO account VALUES (1, 'x', 0)")
        diag = failure.error.diag
        equal((diag.schema_name, diag.table_name, diag.constraint_name), ("public", "account", "account_pkey"))
        true("(id)=(1)" in diag.message_detail, diag.message_detail)
        with raises(errors.NotNullViolation) as failure:
            conn.execute("INSERT INTO account (id) VALUES (99)")
        equal(failure.error.diag.column_name, "owner")
        with raises(errors.UndefinedColumn) as failure:
            conn.execute("SELECT id, nothing FROM account")
        equal(failure.error.diag.statement_position, "12")
        with raises(errors.SyntaxError) as failure:
            conn.execute("SELECT FROM WHERE")
        equal(failure.error.diag.statement_position, "13")
        with raises(errors.InvalidTextRepresentation):
            conn.execute("SELECT * FROM account WHERE id = %s::bigint", ["x"])
        with raises(errors.DivisionByZero):
            conn.execute("SELECT 1 / (id - 1) FROM account WHERE id = 1")
        with raises(errors.UndefinedTable):
            conn.execute("SELECT * FROM nowhere")


def transaction_modes():
    """isolation levels, READ ONLY and DEFERRABLE are taken and kept"""
    with connect() as conn:
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.read_only = True
        conn.deferrable = True
        equal(conn.execute("SELECT count(*) FROM account").fetchone(), (30,))
        equal(conn.execute("SHOW transaction_read_only").fetchone(), ("on",))
        equal(conn.execute("SHOW transaction_deferrable").fetchone(), ("on",))
        with raises(errors.ReadOnlySqlTransaction, "25006"):
            conn.execute("DELETE FROM account")
        conn.rollback()
        conn.read_only, conn.deferrable = None, None
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        conn.execute("UPDATE account SET owner = 'changed' WHERE id = 16")
        equal(conn.info.transaction_status, TransactionStatus.INTRANS)
        conn.commit()
        equal(conn.info.transaction_status, TransactionStatus.IDLE)


def retries():
    """two that read and write the same rows lose no update, since one of them is told to try again"""
    increments = 12

    def work():
        with connect() as conn:
            # Meridian gives every level's transactions this one; other servers must be asked for it.
            conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            for _ in range(increments):
                def increment():
                    with conn.transaction():
                        first = conn.execute("SELECT balance FROM account WHERE id = 20").fetchone()[0]
                        second = conn.execute("SELECT balance FROM account WHERE id = 21").fetchone()[0]
                        conn.execute("UPDATE account SET balance = %s WHERE id = 20", [first + 1])
                        conn.execute("UPDATE account SET balance = %s WHERE id = 21", [second + 1])
                retrying(increment, RETRYABLE)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    with connect() as conn:
        found = conn.execute("SELECT balance FROM account WHERE id IN (20, 21)").fetchall()
        expected = decimal.Decimal(100 + 3 * increments)
        equal(found, [(expected,), (expected,)], "what 3 clients counted")


def settings():
    """settings by SET, set_config and options of the connection are the session's own"""
    with connect(options="-c statement_timeout=12345 -c TimeZone=Asia/Tokyo", application_name="books") as conn:
        equal(conn.execute("SHOW statement_timeout").fetchone(), ("12345ms",))
        equal(conn.info.timezone.key, "Asia/Tokyo")
        equal(conn.info.parameter_status("application_name"), "books")
        equal(conn.execute("SHOW application_name").fetchone(), ("books",))
        found = conn.execute("SELECT set_config('TimeZone', %s, false), set_config('my.tenant', '7', true)", ["UTC"])
        equal(found.fetchone(), ("UTC", "7"))
        equal(conn.info.parameter_status("TimeZone"), "UTC")
        equal(conn.execute("SELECT current_setting('my.tenant'), current_setting('TimeZone')").fetchone(), ("7", "UTC"))
        conn.commit()
        equal(conn.execute("SELECT current_setting('my.tenant', true)").fetchone()[0] or "", "")
        equal(conn.execute("SHOW TimeZone").fetchone(), ("UTC",))
        conn.rollback()


def temporary_tables():
    """a temporary table is filled in a transaction over all shards, goes to them, and is gone with the commit"""
    with connect() as conn:
        conn.execute("CREATE TEMP TABLE fresh (id bigint, owner text) ON COMMIT DROP")
        with conn.cursor() as cur:
            cur.executemany("INSERT INTO fresh VALUES (%s, %s)", [(100 + i, f"fresh {i}") for i in ACCOUNTS])
        conn.execute("UPDATE account SET owner = owner")
        cur = conn.execute("INSERT INTO account SELECT id, owner, 0 FROM fresh ON CONFLICT (id) DO NOTHING")
        equal(cur.rowcount, 30, "rows inserted from the temporary table")
        conn.commit()
        with raises(errors.UndefinedTable):
            conn.execute("SELECT * FROM fresh")
        conn.rollback()
        equal(conn.execute("SELECT count(*) FROM account WHERE owner LIKE 'fresh %'").fetchone(), (30,))
        conn.execute("CREATE TEMP TABLE old AS SELECT * FROM account WHERE id > 100")
        conn.execute("DELETE FROM account WHERE id > 100")
        equal(conn.execute("SELECT min(id), count(*) FROM old WHERE id > %s", [120]).fetchone(), (121, 10))


def notifies():
    """notifications come when a transaction over all shards commits, in their order"""
    with connect(autocommit=True) as listener, connect() as conn:
        listener.execute("LISTEN transfers")
        for words in ("one", "two", "one"):
            conn.execute("SELECT pg_notify('transfers', %s)", [words])
        conn.execute("UPDATE account SET owner = owner")
        conn.execute("NOTIFY transfers, 'three'")
        conn.commit()
        heard = []
        for notification in listener.notifies():
            heard.append((notification.channel, notification.payload))
            if notification.payload == "three":
                break
        equal(heard, [("transfers", words) for words in ("one", "two", "three")])


def server_cursors():
    """server-side cursors are read in parts, go back, and outlive their transaction if they are to"""
    with connect() as conn:
        with conn.cursor(name="forward") as cur:
            cur.itersize = 7
            cur.execute("SELECT id FROM account WHERE id <= %s ORDER BY id", [30])
            equal([column.name for column in cur.description], ["id"])
            equal([row[0] for row in cur], list(ACCOUNTS))
        with conn.cursor(name="anywhere", scrollable=True) as cur:
            cur.execute("SELECT id FROM account ORDER BY id")
            equal(cur.fetchmany(3), [(1,), (2,), (3,)])
            cur.scroll(-2)
            equal(cur.fetchone(), (2,))
            cur.scroll(20, mode="absolute")
            equal(cur.fetchone(), (21,))
        held = conn.cursor(name="held", withhold=True)
        held.execute("SELECT id FROM account ORDER BY id")
        equal(held.fetchone(), (1,))
        conn.commit()
        equal(len(held.fetchall()), 29)
        held.close()


def times_out():
    """statement_timeout, lock_timeout and idle_in_transaction_session_timeout end what they are for"""
    with connect() as conn:
        conn.execute("SET LOCAL statement_timeout = '300ms'")
        begun = time.monotonic()
        with raises(errors.QueryCanceled, "57014") as failure:
            conn.execute("SELECT pg_sleep(20)")
        true("statement timeout" in str(failure.error), str(failure.error))
        true(time.monotonic() - begun < 10, "the statement went on for 10 s")
        conn.rollback()
    with connect() as one, connect() as two:
        one.execute("UPDATE account SET owner = 'locked' WHERE id = 17")
        two.execute("SET LOCAL lock_timeout = '300ms'")
        with raises(errors.LockNotAvailable, "55P03"):
            two.execute("UPDATE account SET owner = 'waits' WHERE id = 17")
        two.rollback()
        one.rollback()
    conn = connect()
    conn.execute("SET idle_in_transaction_session_timeout = '300ms'")
    conn.commit()
    conn.execute("UPDATE account SET owner = 'idle' WHERE id = 18")
    time.sleep(1.5)
    # The server ends the connection with 25P03, which libpq then finds in its socket.
    with raises(psycopg.OperationalError) as failure:
        conn.execute("SELECT 1")
    true("terminating connection due to idle-in-transaction timeout" in str(failure.error), str(failure.error))
    true(conn.closed, "the session is still there")
    with connect() as conn:
        equal(conn.execute("UPDATE account SET owner = 'free' WHERE id = 18").rowcount, 1)


if __name__ == "__main__":
    run([
        makes_tables, transfers, savepoints, types, registers_types, rows, pipelines, prepared, cancels,
        fails_like_postgres, transaction_modes, retries, settings, temporary_tables, notifies, server_cursors,
        times_out,
    ])
