import ShardBackend
import TransactionCore

/// Brings the schema `meridian` of one shard up to date.
///
/// Each migration is applied once, in a transaction of its own, in the order of the numbers, and recorded with its
/// checksum in `meridian.migration`. Any number of migrators may run at once: a lock of the database lets one work.
public struct Migrator: Sendable {
    /// What takes longer than this waits for somebody's lock, who should be asked.
    private static let patience = Duration.seconds(60)
    private static let lock = "hashtext('meridian.migrate')"

    private let connection: ShardConnection
    private let known: [Migration]

    /// A migrator over `connection`, outside any transaction, whose role may create schemas in the database.
    public init(_ connection: ShardConnection) {
        self.init(connection, known: Migration.all)
    }

    init(_ connection: ShardConnection, known: [Migration]) {
        self.connection = connection
        self.known = known
    }

    /// What the shard has and what it lacks; changes nothing.
    ///
    /// - Throws: ``SchemaError`` when the shard is ahead of this program, or was migrated by other files.
    public func plan() async throws(SchemaError) -> MigrationPlan {
        let applied: [MigrationPlan.Applied]
        let checksums: [String]
        do throws(ShardError) {
            applied = try await readApplied()
            checksums = try await readChecksums()
        } catch {
            throw SchemaError(error)
        }
        return try MigrationPlan(applied: applied, known: known, checksums: checksums)
    }

    /// Applies what is missing and returns it.
    ///
    /// - Throws: ``SchemaError``; the migrations before the one that failed stay applied.
    public func apply() async throws(SchemaError) -> [Migration] {
        try await run(
            """
            SELECT pg_advisory_lock(\(Self.lock));
            SET client_min_messages = warning;
            CREATE SCHEMA IF NOT EXISTS meridian;
            CREATE TABLE IF NOT EXISTS meridian.migration (
                number integer PRIMARY KEY,
                name text NOT NULL,
                checksum bytea NOT NULL,
                applied_at timestamptz NOT NULL DEFAULT now()
            )
            """, doing: "the schema meridian cannot be made")
        do throws(SchemaError) {
            let pending = try await plan().pending
            for migration in pending { try await apply(migration) }
            try await run("SELECT pg_advisory_unlock(\(Self.lock))", doing: "the migration cannot be ended")
            return pending
        } catch {
            // Where the lock can't be given back, it goes with the session.
            _ = try? await connection.runSimple("SELECT pg_advisory_unlock(\(Self.lock))")
            throw error
        }
    }

    /// Makes the migrated database shard `shard` of `cluster`, or checks that it is.
    ///
    /// - Parameter cluster: a UUID; nil takes the database's own, or a new one when it has none.
    /// - Returns: the cluster that the database belongs to.
    /// - Throws: ``SchemaError``, SQLSTATE 55000, when it is another shard or another cluster's.
    public func claim(_ shard: ShardID, of cluster: String?) async throws(SchemaError) -> String {
        let claim = SQLStatement(
            "SELECT meridian.claim($1, $2)::text", [cluster.map { .text($0) } ?? .null, .text(shard.rawValue)],
            isPrepared: false)
        do throws(ShardError) {
            return try await connection.run(claim, deadline: .now + Self.patience)[0].text(0)
        } catch {
            throw SchemaError(error)
        }
    }

    /// The cluster that the database belongs to; nil before it was claimed or migrated.
    public func cluster() async throws(SchemaError) -> String? {
        do throws(ShardError) {
            guard try await isThere("meridian.identity") else { return nil }
            let rows = try await query("SELECT cluster::text FROM meridian.identity")
            return try rows.first.map { row throws(ShardError) in try row.text(0) }
        } catch {
            throw SchemaError(error)
        }
    }

    private func readApplied() async throws(ShardError) -> [MigrationPlan.Applied] {
        guard try await isThere("meridian.migration") else { return [] }
        var applied: [MigrationPlan.Applied] = []
        for row in try await query("SELECT number, name, encode(checksum, 'hex') FROM meridian.migration ORDER BY 1") {
            applied.append(.init(number: Int(try row.int64(0)), name: try row.text(1), checksum: try row.text(2)))
        }
        return applied
    }

    /// PostgreSQL computes them, so that the program needs no hash function of its own.
    private func readChecksums() async throws(ShardError) -> [String] {
        let statements = known.map { migration in
            SQLStatement(
                "SELECT encode(sha256($1), 'hex')", [.bytes(Array(migration.sql.utf8))], isPrepared: false)
        }
        var checksums: [String] = []
        for result in try await connection.run(statements, deadline: .now + Self.patience) {
            checksums.append(try result[0].text(0))
        }
        return checksums
    }

    private func apply(_ migration: Migration) async throws(SchemaError) {
        let record = SQLStatement(
            "INSERT INTO meridian.migration (number, name, checksum) VALUES ($1, $2, sha256($3))",
            [.int64(Int64(migration.number)), .text(migration.name), .bytes(Array(migration.sql.utf8))],
            isPrepared: false)
        let work = "migration \(migration.name) failed"
        try await run("BEGIN", doing: work)
        do throws(SchemaError) {
            try await run(migration.sql, doing: work)
            do throws(ShardError) {
                _ = try await connection.run([record, "COMMIT"], deadline: .now + Self.patience)
            } catch {
                throw SchemaError(error, doing: work)
            }
        } catch {
            _ = try? await connection.runSimple("ROLLBACK")
            throw error
        }
    }

    private func isThere(_ table: String) async throws(ShardError) -> Bool {
        try await query("SELECT to_regclass('\(table)') IS NOT NULL")[0].bool(0)
    }

    private func query(_ text: String) async throws(ShardError) -> SQLResult {
        try await connection.run(SQLStatement(text, isPrepared: false), deadline: .now + Self.patience)
    }

    private func run(_ script: String, doing work: String) async throws(SchemaError) {
        do throws(ShardError) {
            _ = try await connection.runSimple(script, deadline: .now + Self.patience)
        } catch {
            throw SchemaError(error, doing: work)
        }
    }
}
