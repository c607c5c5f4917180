"""What the drivers' programs share: they run their checks one by one, say which failed and why, and exit with 1 then.

A program is called with the host and the port of a server, which may be any PostgreSQL or Meridian. It makes its own
tables, of which nothing must be there yet.
"""

import sys
import time
import traceback

HOST = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
PORT = int(sys.argv[2]) if len(sys.argv) > 2 else 5432
USER = DATABASE = "meridian"
CONNINFO = f"host={HOST} port={PORT} user={USER} dbname={DATABASE}"

# Enough rows for every one of three shards to have some.
ACCOUNTS = range(1, 31)


def equal(found, expected, what=""):
    if found != expected:
        raise AssertionError(f"{what}: found {found!r}, expected {expected!r}".removeprefix(": "))


def true(condition, what):
    if not condition:
        raise AssertionError(what)


class raises:
    """Expects an error of that class, and keeps it: `with raises(E) as failure: …; failure.error`."""

    def __init__(self, kind, sqlstate=None):
        self.kind, self.sqlstate, self.error = kind, sqlstate, None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None:
            raise AssertionError(f"no {self.kind.__name__} was raised")
        if not isinstance(error, self.kind):
            return False
        self.error = error
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if self.sqlstate is not None:
            equal(state, self.sqlstate, f"the SQLSTATE of \"{error}\"")
        return True


def retrying(transaction, errors, attempts=50):
    """Runs a transaction again for as long as it fails as one that may be tried again."""
    for attempt in range(attempts):
        try:
            return transaction()
        except errors:
            time.sleep(0.002 * attempt)
    raise AssertionError(f"a transaction did not get through in {attempts} attempts")


def report(failures, count):
    for name, trace in failures:
        print(f"FAILED: {name}\n{trace}", file=sys.stderr)
    print(f"{count - len(failures)} of {count} checks held")
    sys.exit(1 if failures else 0)


def run(checks):
    """Runs functions without arguments, in this order; what one leaves the next may use."""
    failures = []
    for check in checks:
        try:
            check()
        except Exception:
            failures.append((check.__doc__ or check.__name__, traceback.format_exc()))
    report(failures, len(checks))
