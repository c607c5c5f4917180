/// One numbered file of the folder `migrations`, which is part of the program.
public struct Migration: Hashable, Sendable {
    /// 1, 2, 3, …
    public let number: Int
    /// The file's name, like `0001_commit_log.sql`.
    public let name: String
    /// The file's text: SQL that runs in one transaction.
    public let sql: String

    /// Every migration in the order of their numbers, without gaps.
    public static let all: [Migration] = {
        let files = [
            ("0001_commit_log.sql", PackageResources._001_commit_log_sql),
            ("0002_versioned_tables.sql", PackageResources._002_versioned_tables_sql),
            ("0003_retention.sql", PackageResources._003_retention_sql),
            ("0004_placement.sql", PackageResources._004_placement_sql),
            ("0005_session_views.sql", PackageResources._005_session_views_sql),
            ("0006_copy.sql", PackageResources._006_copy_sql),
            ("0007_shard_timeline.sql", PackageResources._007_shard_timeline_sql),
            ("0008_fencing.sql", PackageResources._008_fencing_sql),
        ]
        return files.enumerated().map { index, file in
            Migration(number: index + 1, name: file.0, sql: String(decoding: file.1, as: UTF8.self))
        }
    }()
}

/// What ``Migrator`` finds on a shard, and what it still has to do there.
public struct MigrationPlan: Hashable, Sendable {
    /// A migration that was applied, as the shard recorded it.
    public struct Applied: Hashable, Sendable {
        public let number: Int
        public let name: String
        /// SHA-256 of its text, hexadecimal.
        public let checksum: String
    }

    public let applied: [Applied]
    /// What is missing, in the order in which it is to be applied.
    public let pending: [Migration]

    /// Compares what the shard has with what the program knows.
    ///
    /// - Parameter checksums: of `known`, in the same order.
    /// - Throws: ``SchemaError`` when the shard is ahead of this program, or was migrated by other files.
    init(applied: [Applied], known: [Migration], checksums: [String]) throws(SchemaError) {
        for (index, row) in applied.enumerated() {
            guard row.number == index + 1 else {
                throw SchemaError(
                    "migration \(index + 1) is missing on the shard", detail: "it has \(row.name), but none before it",
                    hint: "restore the table meridian.migration from a backup")
            }
            guard index < known.count else {
                throw SchemaError(
                    "the shard's schema is newer than this program",
                    detail: "it has \(row.name); this program knows \(known.count) migrations",
                    hint: "run the release of Meridian that migrated the shard, or a later one")
            }
            guard row.name == known[index].name, row.checksum == checksums[index] else {
                throw SchemaError(
                    "migration \(row.name) on the shard is not the one of this program",
                    detail: "sha256 is \(row.checksum) there and \(checksums[index]) for \(known[index].name) here",
                    hint: "a migration never changes once it is applied: undo the change and add a new migration")
            }
        }
        self.applied = applied
        pending = Array(known.dropFirst(applied.count))
    }
}
