import CLibPQ

/// The rows a statement returned, and what the server said about it.
///
/// The rows stay where libpq put them; values are decoded as they are read.
public struct SQLResult: Sendable {
    /// Owns a libpq result, which nothing changes any more, so any thread may read it.
    final class Storage: @unchecked Sendable {
        let pointer: OpaquePointer
        let columnCount: Int

        init(_ pointer: OpaquePointer) {
            self.pointer = pointer
            columnCount = Int(PQnfields(pointer))
        }

        deinit {
            PQclear(pointer)
        }
    }

    let storage: Storage

    init(owning pointer: OpaquePointer) {
        storage = Storage(pointer)
    }

    public var columnCount: Int { storage.columnCount }

    public var columnNames: [String] {
        (0..<columnCount).map { String(cString: PQfname(storage.pointer, Int32($0))) }
    }

    /// The number of the first column of that name; nil when there is none.
    public func column(named name: String) -> Int? {
        columnNames.firstIndex(of: name)
    }

    /// How many rows the statement inserted, updated, deleted, selected, moved, fetched or copied; 0 for others.
    public var affectedRows: Int { Int(String(cString: PQcmdTuples(storage.pointer))) ?? 0 }

    /// What PostgreSQL calls the statement, like `INSERT 0 1` or `COMMIT`.
    ///
    /// A COMMIT in a failed transaction says `ROLLBACK` here and is no error.
    public var commandTag: String { String(cString: PQcmdStatus(storage.pointer)) }
}

extension SQLResult: RandomAccessCollection {
    public var startIndex: Int { 0 }
    public var endIndex: Int { Int(PQntuples(storage.pointer)) }

    public subscript(row: Int) -> SQLRow {
        precondition(indices.contains(row), "row \(row) of a result of \(count) rows")
        return SQLRow(storage: storage, row: Int32(row))
    }
}

/// One row of a result.
///
/// Columns are numbered from 0. The accessors throw ``ShardError/Kind/decoding`` when there is no such column, when the
/// value is NULL (ask ``isNull(_:)`` first where it may be), or when it is not what it is read as.
public struct SQLRow: Sendable {
    let storage: SQLResult.Storage
    let row: Int32

    public var columnCount: Int { storage.columnCount }

    public func isNull(_ column: Int) throws(ShardError) -> Bool {
        try check(column)
        return PQgetisnull(storage.pointer, row, Int32(column)) == 1
    }

    /// The value of a `smallint`, `integer`, `bigint` or `oid`, or any type's text that is a number.
    public func int64(_ column: Int) throws(ShardError) -> Int64 {
        let value = try value(column)
        if let number = value.isText ? value.decimal : value.integer { return number }
        throw unexpected(column, "an integer")
    }

    /// The value of a `real`, `double precision` or integer, or any type's text that is a number.
    public func double(_ column: Int) throws(ShardError) -> Double {
        let value = try value(column)
        if let number = value.isText ? Double(value.string) : value.floatingPoint { return number }
        throw unexpected(column, "a number")
    }

    /// The value of a `boolean`.
    public func bool(_ column: Int) throws(ShardError) -> Bool {
        let value = try value(column)
        guard value.type == .bool, let byte = value.bytes.first else { throw unexpected(column, "a boolean") }
        return byte == 1 || byte == UInt8(ascii: "t")
    }

    /// Any value in text format, and in binary format that of a type made of characters, an integer or a boolean.
    public func text(_ column: Int) throws(ShardError) -> String {
        let value = try value(column)
        if value.isText || value.type?.isCharacters == true { return value.string }
        if let number = value.integer { return String(number) }
        if value.type == .bool { return value.bytes.first == 1 ? "t" : "f" }
        throw unexpected(column, "text")
    }

    /// The bytes of a `bytea` in either format; of any other type as the server sent them.
    public func bytes(_ column: Int) throws(ShardError) -> [UInt8] {
        let value = try value(column)
        guard value.isText, value.type == .bytea else { return Array(value.bytes) }
        if let bytes = value.hexadecimal { return bytes }
        throw unexpected(column, "hexadecimal bytes")
    }

    private func check(_ column: Int) throws(ShardError) {
        guard column >= 0, column < storage.columnCount else {
            throw ShardError(.decoding, "there is no column \(column) in a row of \(storage.columnCount)")
        }
    }

    private func value(_ column: Int) throws(ShardError) -> SQLValue {
        guard try !isNull(column) else { throw unexpected(column, "not null") }
        let number = Int32(column)
        return SQLValue(
            type: SQLValue.PostgresType(rawValue: PQftype(storage.pointer, number)),
            isText: PQfformat(storage.pointer, number) == 0,
            bytes: UnsafeRawBufferPointer(
                start: PQgetvalue(storage.pointer, row, number),
                count: Int(PQgetlength(storage.pointer, row, number))))
    }

    /// The value itself stays out of the message: it may be a secret.
    private func unexpected(_ column: Int, _ expected: String) -> ShardError {
        let name = String(cString: PQfname(storage.pointer, Int32(column)))
        let type = PQftype(storage.pointer, Int32(column))
        return ShardError(.decoding, "column \(column) \"\(name)\" of type \(type) is not \(expected)")
    }
}
