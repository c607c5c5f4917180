/// One numbered file of the folder `migrations`, which is part of the program.
public struct Migration: Hashable, Sendable {
    /// 1, 2, 3, …
    public let number: Int
    /// The file's name, like `0001_commit_log.sql`.
    public let name: String
    /// The file's text: SQL that runs in one transaction.
    public let sql: String

    /// Every migration, in the order of their numbers, without gaps.
    public static let all: [Migration] = [
        Migration("0001_commit_log.sql", PackageResources._001_commit_log_sql),
        Migration("0002_versioned_tables.sql", PackageResources._002_versioned_tables_sql),
        Migration("0003_retention.sql", PackageResources._003_retention_sql),
    ].enumerated().map { index, file in
        Migration(number: index + 1, name: file.name, sql: file.sql)
    }

    init(number: Int, name: String, sql: String) {
        self.number = number
        self.name = name
        self.sql = sql
    }

    private init(_ name: String, _ bytes: [UInt8]) {
        self.init(number: 0, name: name, sql: String(decoding: bytes, as: UTF8.self))
    }
}
