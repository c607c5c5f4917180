"""What programs do with SQLAlchemy 1.4 over psycopg2: sqlalchemy_orm.py HOST PORT."""

import datetime
import decimal
import enum
import uuid

import sqlalchemy as sa
from sqlalchemy import exc, func, orm, select
from sqlalchemy.dialects import postgresql

from checks import ACCOUNTS, DATABASE, HOST, PORT, USER, equal, raises, run, true

Base = orm.declarative_base()


class Grade(enum.Enum):
    gold = "gold"
    plain = "plain"


class Customer(Base):
    __tablename__ = "customer"
    id = sa.Column(sa.Integer, primary_key=True)
    name = sa.Column(sa.String(40), nullable=False, index=True)
    grade = sa.Column(sa.Enum(Grade, name="grade"), nullable=False, default=Grade.plain)
    joined = sa.Column(sa.DateTime(timezone=True), server_default=func.now(), nullable=False)
    tags = sa.Column(postgresql.ARRAY(sa.Text))
    details = sa.Column(postgresql.JSONB)
    token = sa.Column(postgresql.UUID(as_uuid=True), default=uuid.uuid4)
    orders = orm.relationship("Order", back_populates="customer", order_by="Order.number",
                              cascade="all, delete-orphan")


class Order(Base):
    """On its customer's shard: the first column of the primary key is the shard key."""
    __tablename__ = "customer_order"
    customer_id = sa.Column(sa.ForeignKey("customer.id", ondelete="CASCADE"), primary_key=True)
    number = sa.Column(sa.Integer, primary_key=True)
    amount = sa.Column(sa.Numeric(12, 2), nullable=False)
    paid = sa.Column(sa.Boolean, nullable=False, default=False)
    customer = orm.relationship("Customer", back_populates="orders")
    __table_args__ = (sa.CheckConstraint("amount >= 0", name="amount_not_negative"),
                      sa.Index("order_by_amount", "amount", "number"))


class Account(Base):
    __tablename__ = "account"
    id = sa.Column(sa.BigInteger, primary_key=True, autoincrement=False)
    balance = sa.Column(sa.Numeric(12, 2), nullable=False)
    version = sa.Column(sa.Integer, nullable=False)
    __mapper_args__ = {"version_id_col": version}


engine = sa.create_engine(f"postgresql+psycopg2://{USER}@{HOST}:{PORT}/{DATABASE}", future=True)
Session = orm.sessionmaker(engine, future=True)


def creates_all():
    """the tables of a model are made when they are not there yet, and found when they are"""
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    equal(sorted(sa.inspect(engine).get_table_names()), ["account", "customer", "customer_order"])


def inserts():
    """new objects get their keys and defaults from the server; objects of one session go to all shards"""
    with Session() as session:
        customers = [Customer(name=f"customer {number}", tags=["a", "b"], details={"number": number})
                     for number in range(20)]
        session.add_all(customers)
        session.flush()
        keys = [customer.id for customer in customers]
        equal(len(set(keys)), 20, "different keys")
        for customer in customers:
            customer.orders = [Order(number=number, amount=decimal.Decimal(number * 10)) for number in range(1, 4)]
        session.commit()
        true(all(customer.joined.tzinfo is not None for customer in customers), "a default without a time zone")
    with Session() as session:
        equal(session.scalar(select(func.count()).select_from(Customer)), 20)
        equal(session.scalar(select(func.sum(Order.amount))), decimal.Decimal("1200.00"))
        first = session.get(Customer, keys[0])
        equal((first.grade, first.tags, first.details), (Grade.plain, ["a", "b"], {"number": 0}))
        true(isinstance(first.token, uuid.UUID), "a token is no UUID")


def updates():
    """changed objects are written, and an error undoes the whole unit of work"""
    with Session.begin() as session:
        for customer in session.scalars(select(Customer).where(Customer.name.in_(["customer 3", "customer 4"]))):
            customer.grade = Grade.gold
            customer.orders[0].paid = True
            del customer.orders[2]
    with Session() as session:
        gold = session.scalars(select(Customer).where(Customer.grade == Grade.gold).order_by(Customer.name)).all()
        equal([customer.name for customer in gold], ["customer 3", "customer 4"])
        equal([(order.number, order.paid) for order in gold[0].orders], [(1, True), (2, False)])
        gold[0].name, gold[1].orders[0].amount = "changed", decimal.Decimal(-1)
        with raises(exc.IntegrityError) as failure:
            session.commit()
        equal(failure.error.orig.pgcode, "23514")
        equal(failure.error.orig.diag.constraint_name, "amount_not_negative")
        session.rollback()
        equal(gold[0].name, "customer 3")


def returning():
    """INSERT, UPDATE and DELETE give back what they touched, on one shard and on all"""
    with engine.begin() as conn:
        made = conn.execute(sa.insert(Account).returning(Account.id, Account.balance),
                            [{"id": key, "balance": 100, "version": 1} for key in ACCOUNTS][:1])
        equal(made.all(), [(1, decimal.Decimal("100.00"))])
        conn.execute(sa.insert(Account), [{"id": key, "balance": 100, "version": 1} for key in ACCOUNTS[1:]])
        rich = conn.execute(sa.update(Account).where(Account.id == 1).values(balance=Account.balance + 1)
                            .returning(Account.balance)).scalar_one()
        equal(rich, decimal.Decimal("101.00"))
        some = conn.execute(sa.update(Account).where(Account.id <= 5).values(balance=100).returning(Account.id)).all()
        equal(sorted(some), [(1,), (2,), (3,), (4,), (5,)])
        stmt = postgresql.insert(Account).values([{"id": key, "balance": 1, "version": 1} for key in (1, 2, 31)])
        more = Account.balance + stmt.excluded.balance
        stmt = stmt.on_conflict_do_update(index_elements=["id"], set_={"balance": more})
        conn.execute(stmt)
        gone = conn.execute(sa.delete(Account).where(Account.id == 31).returning(Account.balance)).scalars().all()
        equal(gone, [decimal.Decimal("1.00")])
        conn.execute(sa.update(Account).where(Account.id.in_([1, 2])).values(balance=100))
    with engine.connect() as conn:
        equal(conn.execute(select(func.count(), func.sum(Account.balance))).one(), (30, decimal.Decimal("3000.00")))


def queries():
    """joins along a relationship, eager loading, grouping and limits give the rows of all shards"""
    with Session() as session:
        join = (select(Customer.name, Order.amount).join(Customer.orders).where(Order.amount > 20)
                .order_by(Customer.id, Order.number).limit(3))
        equal(session.execute(join).all(), [(f"customer {number}", decimal.Decimal("30.00")) for number in range(3)])
        eager = select(Customer).options(orm.selectinload(Customer.orders)).order_by(Customer.id)
        loaded = session.scalars(eager).all()
        equal([len(customer.orders) for customer in loaded], [3, 3, 3, 2, 2] + [3] * 15)
        joined = session.scalars(select(Customer).options(orm.joinedload(Customer.orders)).where(
            Customer.name == "customer 7").execution_options(populate_existing=True)).unique().one()
        equal(len(joined.orders), 3)
        totals = (select(Customer.id, func.sum(Order.amount).label("total"), func.count())
                  .join(Order).group_by(Customer.id).having(func.sum(Order.amount) < 60).order_by("total"))
        equal([tuple(row)[1:] for row in session.execute(totals)], [(decimal.Decimal("30.00"), 2)] * 2)
        page = session.scalars(select(Customer.name).order_by(Customer.name.desc()).limit(2).offset(1)).all()
        equal(page, ["customer 8", "customer 7"])
        has = select(func.count()).select_from(Customer).where(Customer.orders.any(Order.paid))
        equal(session.scalar(has), 2)
        average = session.scalar(select(func.avg(Order.amount)).where(Order.number == 2))
        equal(average, decimal.Decimal(20))
        equal(session.query(Customer).filter(Customer.tags.contains(["a"]), Customer.details["number"].astext == "5")
              .one().name, "customer 5")


def savepoints():
    """begin_nested undoes what failed in it and nothing else"""
    with Session.begin() as session:
        session.add(Account(id=50, balance=0))
        session.flush()
        with raises(exc.IntegrityError):
            with session.begin_nested():
                session.add(Account(id=51, balance=0))
                session.flush()
                session.execute(sa.insert(Account).values(id=1, balance=0, version=1))
        session.add(Account(id=52, balance=0))
    with Session() as session:
        equal(session.scalars(select(Account.id).where(Account.id >= 50).order_by(Account.id)).all(), [50, 52])


def transfers():
    """a session that moves money between shards commits whole; a stale version is noticed"""
    with Session() as session, Session() as other:
        source, target = session.get(Account, 1), session.get(Account, 2)
        stale = other.get(Account, 1)
        source.balance -= 30
        target.balance += 30
        session.commit()
        equal((source.version, target.version), (2, 2))
        stale.balance += 1
        # Meridian says 40001 since the row was changed behind the snapshot; others leave it to the version column.
        with raises((orm.exc.StaleDataError, exc.OperationalError)) as failure:
            other.commit()
        if isinstance(failure.error, exc.OperationalError):
            equal(failure.error.orig.pgcode, "40001")
        other.rollback()
        equal(session.scalar(select(func.sum(Account.balance))), decimal.Decimal("3000.00"))
        locked = session.scalars(select(Account).where(Account.id == 3).with_for_update()).one()
        equal(locked.id, 3)
        session.rollback()


def levels():
    """isolation levels and AUTOCOMMIT are options of an engine"""
    for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
        with engine.connect().execution_options(isolation_level=level) as conn:
            equal(conn.execute(select(func.count()).select_from(Account)).scalar_one(), 32)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(sa.update(Account).where(Account.id == 50).values(balance=7))
        with engine.connect() as other:
            equal(other.execute(select(Account.balance).where(Account.id == 50)).scalar_one(), decimal.Decimal(7))
    with engine.connect().execution_options(isolation_level="SERIALIZABLE", postgresql_readonly=True,
                                            postgresql_deferrable=True) as conn:
        with raises(exc.InternalError) as failure:
            conn.execute(sa.delete(Account))
        equal(failure.error.orig.pgcode, "25006")


def reflection():
    """tables, columns, keys, indexes and constraints are reflected as they were declared"""
    inspector = sa.inspect(engine)
    equal(inspector.get_pk_constraint("customer_order")["constrained_columns"], ["customer_id", "number"])
    foreign = inspector.get_foreign_keys("customer_order")
    equal([(key["constrained_columns"], key["referred_table"], key["options"]) for key in foreign],
          [(["customer_id"], "customer", {"ondelete": "CASCADE"})])
    equal({index["name"]: index["column_names"] for index in inspector.get_indexes("customer_order")},
          {"order_by_amount": ["amount", "number"]})
    equal([index["name"] for index in inspector.get_indexes("customer")], ["ix_customer_name"])
    checks = inspector.get_check_constraints("customer_order")
    equal([check["name"] for check in checks], ["amount_not_negative"])
    columns = {column["name"]: column for column in inspector.get_columns("customer")}
    true(isinstance(columns["name"]["type"], sa.VARCHAR) and columns["name"]["type"].length == 40, "name's type")
    true(isinstance(columns["tags"]["type"], postgresql.ARRAY), "tags' type")
    true(columns["id"]["default"].startswith("nextval("), f"the key's default is {columns['id']['default']}")
    equal((columns["joined"]["nullable"], columns["joined"]["default"]), (False, "now()"))
    equal([item["name"] for item in inspector.get_enums()], ["grade"])
    equal(inspector.get_unique_constraints("customer"), [])
    equal((inspector.get_view_names(), inspector.get_sequence_names()), ([], ["customer_id_seq"]))
    true("public" in inspector.get_schema_names(), "there is no schema public")
    true(inspector.has_table("customer") and not inspector.has_table("nothing"), "has_table")
    reflected = sa.MetaData()
    reflected.reflect(engine)
    equal(sorted(reflected.tables), ["account", "customer", "customer_order"])
    table = reflected.tables["customer_order"]
    equal([column.name for column in table.primary_key], ["customer_id", "number"])
    with engine.connect() as conn:
        equal(conn.execute(select(func.count()).select_from(table).where(table.c.paid)).scalar_one(), 2)


def drops():
    """the tables of a model are dropped in the order of their dependences"""
    Base.metadata.drop_all(engine)
    equal(sa.inspect(engine).get_table_names(), [])
    engine.dispose()


if __name__ == "__main__":
    run([creates_all, inserts, updates, returning, queries, savepoints, transfers, levels, reflection, drops])
