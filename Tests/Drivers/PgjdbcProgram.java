import java.math.BigDecimal;
import java.sql.Array;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Types;
import java.time.LocalDate;
import java.time.LocalDateTime;
import java.time.OffsetDateTime;
import java.time.ZoneOffset;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Objects;
import java.util.Properties;
import java.util.UUID;
import org.postgresql.PGConnection;
import org.postgresql.PGStatement;
import org.postgresql.util.PSQLException;

/** What programs do with pgjdbc: java PgjdbcProgram.java HOST PORT. COPY is not among it. */
public class PgjdbcProgram {
    static final String TWO_DAYS = "0 years 0 mons 2 days 3 hours 0 mins 0.0 secs";
    static String url;

    interface Check {
        void run() throws Exception;
    }

    static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", "meridian");
        for (int i = 0; i < options.length; i += 2) properties.setProperty(options[i], options[i + 1]);
        return DriverManager.getConnection(url, properties);
    }

    static void equal(Object found, Object expected, String what) {
        if (!Objects.deepEquals(found, expected)) {
            throw new AssertionError(what + ": found " + shown(found) + ", expected " + shown(expected));
        }
    }

    static String shown(Object value) {
        return value instanceof Object[] array ? Arrays.deepToString(array) : String.valueOf(value);
    }

    static SQLException failure(String state, Check body) throws Exception {
        try {
            body.run();
        } catch (SQLException error) {
            equal(error.getSQLState(), state, "the SQLSTATE of \"" + error.getMessage() + "\"");
            return error;
        }
        throw new AssertionError("no error with SQLSTATE " + state);
    }

    static long number(Connection connection, String query) throws SQLException {
        try (Statement statement = connection.createStatement(); ResultSet rows = statement.executeQuery(query)) {
            rows.next();
            return rows.getLong(1);
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> values = new ArrayList<>();
        while (rows.next()) values.add(rows.getString(name));
        return values;
    }

    // Batches and transactions

    static void makesTables() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.execute("CREATE TABLE account (id bigint PRIMARY KEY, owner varchar(40) NOT NULL,"
                + " balance numeric(12,2) NOT NULL DEFAULT 0)");
            statement.execute("CREATE TABLE entry (id bigserial PRIMARY KEY, account bigint NOT NULL, words text)");
            statement.execute("CREATE INDEX entry_by_words ON entry (words, account)");
            connection.setAutoCommit(false);
            try (PreparedStatement insert = connection.prepareStatement("INSERT INTO account VALUES (?, ?, ?)")) {
                for (int key = 1; key <= 30; key++) {
                    insert.setLong(1, key);
                    insert.setString(2, "owner " + key);
                    insert.setBigDecimal(3, new BigDecimal("100.00"));
                    insert.addBatch();
                }
                equal(Arrays.stream(insert.executeBatch()).sum(), 30, "rows of a batch");
            }
            connection.commit();
            equal(number(connection, "SELECT sum(balance) FROM account"), 3000L, "the sum");
            connection.commit();
        }
    }

    static void batches() throws Exception {
        for (String rewrites : List.of("false", "true")) {
            try (Connection connection = connect("reWriteBatchedInserts", rewrites)) {
                connection.setAutoCommit(false);
                try (PreparedStatement insert = connection.prepareStatement("INSERT INTO account VALUES (?, ?, ?)")) {
                    for (int key = 1000; key < 1200; key++) {
                        insert.setLong(1, key);
                        insert.setString(2, "batch");
                        insert.setBigDecimal(3, BigDecimal.ONE);
                        insert.addBatch();
                    }
                    equal(insert.executeBatch().length, 200, "statements of a batch");
                    insert.setLong(1, 1500);
                    insert.setString(2, "batch");
                    insert.setBigDecimal(3, BigDecimal.ONE);
                    insert.addBatch();
                    insert.setLong(1, 1);
                    insert.addBatch();
                    SQLException error = failure("23505", insert::executeBatch);
                    equal(error instanceof BatchUpdateException, true, "a batch's error");
                }
                connection.rollback();
                equal(number(connection, "SELECT count(*) FROM account"), 30L, "accounts after a rollback");
                connection.commit();
                try (PreparedStatement update =
                        connection.prepareStatement("UPDATE account SET balance = balance + ? WHERE id = ?")) {
                    for (int key = 1; key <= 30; key++) {
                        update.setBigDecimal(1, new BigDecimal(key % 2 == 0 ? "1" : "-1"));
                        update.setLong(2, key);
                        update.addBatch();
                    }
                    equal(Arrays.stream(update.executeBatch()).sum(), 30, "rows of a batch of updates");
                }
                connection.commit();
                equal(number(connection, "SELECT sum(balance) FROM account"), 3000L, "the sum");
            }
        }
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.addBatch("UPDATE account SET owner = 'a' WHERE id = 1");
            statement.addBatch("UPDATE account SET owner = 'b' WHERE id IN (2, 3, 4)");
            equal(statement.executeBatch(), new int[] {1, 3}, "rows of a batch of texts");
        }
    }

    static void transactions() throws Exception {
        try (Connection one = connect(); Connection other = connect(); Statement statement = one.createStatement()) {
            one.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            equal(one.getTransactionIsolation(), Connection.TRANSACTION_SERIALIZABLE, "the isolation");
            one.setAutoCommit(false);
            statement.executeUpdate("UPDATE account SET balance = balance - 40 WHERE id = 5");
            Savepoint savepoint = one.setSavepoint("before");
            failure("23505", () -> statement.executeUpdate("INSERT INTO account VALUES (7, 'twice')"));
            failure("25P02", () -> number(one, "SELECT 1"));
            one.rollback(savepoint);
            statement.executeUpdate("UPDATE account SET balance = balance + 40 WHERE id = 6");
            one.releaseSavepoint(savepoint);
            equal(number(other, "SELECT sum(balance) FROM account WHERE id IN (5, 6)"), 200L, "what others see");
            one.commit();
            equal(number(other, "SELECT max(balance) FROM account WHERE id IN (5, 6)"), 142L, "what others see then");
            one.setReadOnly(true);
            failure("25006", () -> statement.executeUpdate("DELETE FROM account"));
            one.rollback();
            one.setReadOnly(false);
            statement.executeUpdate("UPDATE account SET balance = 100");
            one.commit();
        }
        // The driver sets a savepoint before each statement, and goes back to it when the statement fails.
        try (Connection connection = connect("autosave", "always");
                Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.executeUpdate("UPDATE account SET owner = 'kept' WHERE id IN (8, 9, 10)");
            failure("22012", () -> number(connection, "SELECT 1 / 0"));
            failure("42P01", () -> number(connection, "SELECT * FROM nowhere"));
            connection.commit();
            equal(number(connection, "SELECT count(*) FROM account WHERE owner = 'kept'"), 3L, "kept rows");
        }
    }

    // Rows

    static void generatedKeys() throws Exception {
        try (Connection connection = connect()) {
            connection.setAutoCommit(false);
            List<Long> keys = new ArrayList<>();
            String insert = "INSERT INTO entry (account, words) VALUES (?, ?)";
            try (PreparedStatement statement = connection.prepareStatement(insert, Statement.RETURN_GENERATED_KEYS)) {
                for (int turn = 0; turn < 20; turn++) {
                    statement.setLong(1, turn);
                    statement.setString(2, "words " + turn);
                    equal(statement.executeUpdate(), 1, "rows inserted");
                    try (ResultSet rows = statement.getGeneratedKeys()) {
                        rows.next();
                        keys.add(rows.getLong("id"));
                        equal(rows.getString("words"), "words " + turn, "the other columns");
                    }
                }
            }
            try (PreparedStatement statement = connection.prepareStatement(insert, new String[] {"id"})) {
                for (int turn = 20; turn < 30; turn++) {
                    statement.setLong(1, turn);
                    statement.setString(2, "words " + turn);
                    statement.addBatch();
                }
                statement.executeBatch();
                try (ResultSet rows = statement.getGeneratedKeys()) {
                    while (rows.next()) keys.add(rows.getLong(1));
                }
            }
            equal(keys.stream().distinct().count(), 30L, "different keys");
            connection.commit();
            equal(number(connection, "SELECT count(*) FROM entry WHERE id = " + keys.get(25)), 1L, "rows of a key");
            connection.commit();
        }
    }

    static void binaryTransfer() throws Exception {
        try (Connection connection = connect("prepareThreshold", "3"); Statement make = connection.createStatement()) {
            make.execute("CREATE TYPE mood AS ENUM ('happy', 'sad')");
            make.execute("CREATE TABLE every_type (id int PRIMARY KEY, a smallint, b bigint, c real,"
                + " d double precision, e numeric, f text, g varchar(10), h char(4), i bytea, j date, k timestamp, l timestamptz, m uuid,"
                + " n jsonb, o json, p int[], q text[], r interval, s inet, t mood, u boolean, v time, w point)");
            UUID uuid = new UUID(1, 2);
            LocalDateTime moment = LocalDateTime.of(2026, 11, 25, 1, 2, 3, 456789000);
            byte[] bytes = {0, 1, -1, 127, -128};
            for (int key = 0; key < 8; key++) {
                try (PreparedStatement insert = connection.prepareStatement("INSERT INTO every_type VALUES"
                        + " (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?::jsonb, ?::json, ?, ?, ?::interval, ?::inet,"
                        + " ?::mood, ?, '01:02:03', '(1,2)')")) {
                    Object[] values = {key, (short) -5, Long.MIN_VALUE, 0.5f, 1e300, new BigDecimal("-12345.6789"),
                        "ü'\\", "v", "ab", bytes, LocalDate.of(1999, 12, 31), moment, moment.atOffset(ZoneOffset.UTC), uuid,
                        "{\"a\": [1, null]}", "{\"a\":1}", connection.createArrayOf("int4", new Integer[] {1, null, 3}),
                        connection.createArrayOf("text", new String[] {"x", "y,z"}), "2 days 03:00:00", "10.0.0.1",
                        "sad", true};
                    for (int index = 0; index < values.length; index++) insert.setObject(index + 1, values[index]);
                    insert.executeUpdate();
                }
            }
            try (PreparedStatement query = connection.prepareStatement("SELECT * FROM every_type WHERE id = ?")) {
                for (int key = 0; key < 8; key++) {
                    query.setInt(1, key);
                    try (ResultSet rows = query.executeQuery()) {
                        equal(rows.next(), true, "whether there is a row " + key);
                        checkRow(rows, key, moment, uuid, bytes);
                    }
                }
                equal(query.unwrap(PGStatement.class).isUseServerPrepare(), true, "whether it is prepared by now");
            }
            try (PreparedStatement query = connection.prepareStatement("SELECT * FROM every_type ORDER BY id DESC")) {
                for (int turn = 0; turn < 5; turn++) {
                    try (ResultSet rows = query.executeQuery()) {
                        for (int key = 7; rows.next(); key--) checkRow(rows, key, moment, uuid, bytes);
                    }
                }
            }
            try (PreparedStatement update = connection.prepareStatement(
                    "UPDATE every_type SET b = ? WHERE id = ? RETURNING b, n, t, r")) {
                for (int key = 0; key < 8; key++) {
                    update.setLong(1, key * 10L);
                    update.setInt(2, key);
                    try (ResultSet rows = update.executeQuery()) {
                        rows.next();
                        equal(rows.getLong(1), key * 10L, "a returned number");
                        equal(rows.getString(2) + rows.getString(3), "{\"a\": [1, null]}sad", "returned texts");
                        equal(rows.getObject(4).toString(), TWO_DAYS, "an interval");
                    }
                }
            }
        }
    }

    static void checkRow(ResultSet row, int key, LocalDateTime moment, UUID uuid, byte[] bytes) throws SQLException {
        equal(row.getInt("id"), key, "id");
        equal(row.getShort("a"), (short) -5, "smallint");
        equal(row.getLong("b"), Long.MIN_VALUE, "bigint");
        equal(row.getFloat("c"), 0.5f, "real");
        equal(row.getDouble("d"), 1e300, "double precision");
        equal(row.getBigDecimal("e"), new BigDecimal("-12345.6789"), "numeric");
        equal(row.getString("f") + row.getString("g") + row.getString("h"), "ü'\\vab  ", "characters");
        equal(row.getBytes("i"), bytes, "bytea");
        equal(row.getObject("j", LocalDate.class), LocalDate.of(1999, 12, 31), "date");
        equal(row.getObject("k", LocalDateTime.class), moment, "timestamp");
        equal(row.getObject("l", OffsetDateTime.class).toInstant(), moment.toInstant(ZoneOffset.UTC), "timestamptz");
        equal(row.getObject("m"), uuid, "uuid");
        equal(row.getString("n") + row.getString("o"), "{\"a\": [1, null]}{\"a\":1}", "json");
        equal(row.getArray("p").getArray(), new Integer[] {1, null, 3}, "int[]");
        equal(row.getArray("q").getArray(), new String[] {"x", "y,z"}, "text[]");
        equal(row.getString("s") + row.getString("t"), "10.0.0.1sad", "inet and enumeration");
        equal(row.getBoolean("u"), true, "boolean");
        equal(row.getObject("r").toString(), TWO_DAYS, "interval");
        equal(row.getTime("v").toString() + row.getObject("w"), "01:02:03(1.0,2.0)", "time and point");
    }

    static void fetchSize() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            connection.setAutoCommit(false);
            statement.setFetchSize(7);
            for (String order : List.of("id", "id DESC")) {
                try (ResultSet rows = statement.executeQuery("SELECT id, owner FROM account ORDER BY " + order)) {
                    int count = 0;
                    while (rows.next()) {
                        count++;
                        equal(rows.getInt(1), order.equals("id") ? count : 31 - count, "a row's key");
                    }
                    equal(count, 30, "rows in parts of 7");
                }
            }
            try (ResultSet rows = statement.executeQuery("SELECT id FROM account ORDER BY id")) {
                rows.next();
                // Another statement between two parts.
                equal(number(connection, "SELECT count(*) FROM account"), 30L, "accounts");
                int count = 1;
                while (rows.next()) count++;
                equal(count, 30, "rows in parts with another statement between");
            }
            connection.commit();
            statement.setMaxRows(4);
            try (ResultSet rows = statement.executeQuery("SELECT id FROM account ORDER BY id")) {
                equal(column(rows, "id"), List.of("1", "2", "3", "4"), "no more rows than asked for");
            }
            connection.commit();
        }
    }

    // Metadata

    static void metadata() throws Exception {
        try (Connection connection = connect()) {
            DatabaseMetaData meta = connection.getMetaData();
            equal(meta.getDatabaseProductName(), "PostgreSQL", "the product");
            equal(column(meta.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME"),
                List.of("account", "entry", "every_type"), "the tables");
            equal(column(meta.getColumns(null, "public", "account", "%"), "COLUMN_NAME"),
                List.of("id", "owner", "balance"), "the columns");
            try (ResultSet rows = meta.getColumns(null, "public", "account", "balance")) {
                rows.next();
                equal(rows.getInt("DATA_TYPE"), Types.NUMERIC, "the type");
                equal(rows.getInt("COLUMN_SIZE") + rows.getInt("DECIMAL_DIGITS"), 14, "the digits");
                equal(rows.getString("COLUMN_DEF") + rows.getString("IS_NULLABLE"), "0NO", "default and null");
            }
            equal(column(meta.getColumns(null, "public", "entry", "id"), "IS_AUTOINCREMENT"), List.of("YES"),
                "bigserial");
            equal(column(meta.getPrimaryKeys(null, "public", "account"), "COLUMN_NAME"), List.of("id"), "the key");
            equal(column(meta.getIndexInfo(null, "public", "entry", false, false), "COLUMN_NAME"),
                List.of("id", "words", "account"), "the indexes' columns");
            equal(column(meta.getImportedKeys(null, "public", "entry"), "FKCOLUMN_NAME"), List.of(), "foreign keys");
            equal(column(meta.getSchemas(), "TABLE_SCHEM").contains("public"), true, "whether there is public");
            equal(column(meta.getTypeInfo(), "TYPE_NAME").contains("timestamptz"), true, "whether there is a type");
            equal(column(meta.getFunctions(null, "pg_catalog", "abs"), "FUNCTION_NAME").isEmpty(), false, "abs");
            try (PreparedStatement query = connection.prepareStatement(
                    "SELECT id, owner, balance * 2 AS twice FROM account WHERE id = ? AND owner LIKE ?")) {
                ResultSetMetaData columns = query.getMetaData();
                equal(columns.getColumnCount(), 3, "columns");
                equal(columns.getColumnName(3) + columns.getColumnTypeName(1), "twiceint8", "names and types");
                equal(columns.getTableName(2) + columns.isAutoIncrement(1), "accountfalse", "where a column is from");
                equal(columns.isNullable(2), ResultSetMetaData.columnNoNulls, "whether a column takes nulls");
                equal(query.getParameterMetaData().getParameterTypeName(1), "int8", "a parameter's type");
            }
        }
    }

    static void cancels() throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            Thread canceller = new Thread(() -> {
                try {
                    Thread.sleep(500);
                    statement.cancel();
                } catch (InterruptedException | SQLException error) {
                    throw new IllegalStateException(error);
                }
            });
            canceller.start();
            failure("57014", () -> statement.execute("SELECT pg_sleep(30)"));
            canceller.join();
            statement.setQueryTimeout(1);
            failure("57014", () -> statement.execute("SELECT pg_sleep(30)"));
            statement.setQueryTimeout(0);
            equal(number(connection, "SELECT count(*) FROM account"), 30L, "accounts");
        }
    }

    static void others() throws Exception {
        for (String mode : List.of("simple", "extended", "extendedForPrepared", "extendedCacheEverything")) {
            try (Connection connection = connect("preferQueryMode", mode)) {
                try (PreparedStatement query =
                        connection.prepareStatement("SELECT owner FROM account WHERE id = ? OR owner = ?")) {
                    for (int key = 11; key < 20; key++) {
                        query.setLong(1, key);
                        query.setString(2, "no' \\ one");
                        try (ResultSet rows = query.executeQuery()) {
                            equal(column(rows, "owner"), List.of("owner " + key), mode);
                        }
                    }
                }
            }
        }
        try (Connection connection = connect("currentSchema", "public", "ApplicationName", "books");
                Statement statement = connection.createStatement()) {
            equal(connection.getSchema(), "public", "the schema");
            connection.setClientInfo("ApplicationName", "ledger");
            try (ResultSet rows = statement.executeQuery("SHOW application_name")) {
                equal(column(rows, "application_name"), List.of("ledger"), "the program's name");
            }
            equal(connection.isValid(5), true, "whether the connection is alive");
            PSQLException error = (PSQLException) failure("23502", () ->
                statement.execute("INSERT INTO account (id) VALUES (99)"));
            equal(error.getServerErrorMessage().getColumn(), "owner", "the column that takes no null");
            boolean isQuery = statement.execute("UPDATE account SET balance = 0 WHERE id = 1; SELECT 5; SELECT 6");
            equal(isQuery, false, "the first of three results");
            equal(statement.getUpdateCount(), 1, "rows of the first statement");
            equal(statement.getMoreResults(), true, "the second of three results");
            statement.getResultSet().next();
            equal(statement.getResultSet().getInt(1), 5, "the second result");
            Array keys = connection.createArrayOf("bigint", new Long[] {2L, 4L, 6L});
            try (PreparedStatement query =
                    connection.prepareStatement("SELECT count(*) FROM account WHERE id = ANY(?)")) {
                query.setArray(1, keys);
                try (ResultSet rows = query.executeQuery()) {
                    rows.next();
                    equal(rows.getInt(1), 3, "rows of = ANY");
                }
            }
            equal(connection.unwrap(PGConnection.class).getBackendPID() != 0, true, "whether there is a process");
        }
    }

    public static void main(String[] arguments) throws Exception {
        url = "jdbc:postgresql://" + arguments[0] + ":" + arguments[1] + "/meridian";
        String[] names = {"tables are filled by a batch", "batches", "transactions and savepoints", "generated keys",
            "binary transfer", "setFetchSize and setMaxRows", "metadata", "cancelling", "query modes and the rest"};
        Check[] checks = {PgjdbcProgram::makesTables, PgjdbcProgram::batches, PgjdbcProgram::transactions,
            PgjdbcProgram::generatedKeys, PgjdbcProgram::binaryTransfer, PgjdbcProgram::fetchSize,
            PgjdbcProgram::metadata, PgjdbcProgram::cancels, PgjdbcProgram::others};
        int failed = 0;
        for (int index = 0; index < checks.length; index++) {
            try {
                checks[index].run();
            } catch (Throwable error) {
                failed++;
                System.err.println("FAILED: " + names[index]);
                error.printStackTrace();
            }
        }
        System.out.println(checks.length - failed + " of " + checks.length + " checks held");
        System.exit(failed == 0 ? 0 : 1);
    }
}
