import CLibPQ
import Glibc

/// The rows a statement returned, and what the server said about it.
///
/// The rows stay where libpq put them; values are decoded as they are read, or passed on as they are by
/// ``withRawRows(_:)``.
public struct SQLResult: Sendable {
    /// What kind of statement it is the result of.
    public enum Kind: Sendable {
        /// One that returns rows, even if none or without any column.
        case rows
        case command
        /// A text without a statement.
        case emptyQuery
    }

    /// Owns a libpq result, which nothing changes once it is handed out, so any thread may read it.
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
    /// What the columns are said to be, where that is not what the server said.
    private var ownFields: [ResultField]?
    /// The result whose tag this one has, where its rows were made of that one's.
    private var tagged: Storage?

    init(owning pointer: OpaquePointer, taggedAs origin: SQLResult? = nil) {
        storage = Storage(pointer)
        tagged = origin.map { $0.tagged ?? $0.storage }
    }

    /// The same rows, with other words about their columns.
    public func described(as fields: [ResultField]) -> SQLResult {
        var copy = self
        copy.ownFields = fields
        return copy
    }

    public var kind: Kind {
        switch PQresultStatus(storage.pointer) {
        case PGRES_TUPLES_OK, PGRES_SINGLE_TUPLE: .rows
        case PGRES_EMPTY_QUERY: .emptyQuery
        default: .command
        }
    }

    public var columnCount: Int { storage.columnCount }

    public var columnNames: [String] {
        (0..<columnCount).map { String(cString: PQfname(storage.pointer, Int32($0))) }
    }

    /// What the server says about the columns; made anew at each call.
    public var fields: [ResultField] { ownFields ?? ResultField.all(of: storage.pointer) }

    /// The number of the first column of that name; nil when there is none.
    public func column(named name: String) -> Int? {
        columnNames.firstIndex(of: name)
    }

    /// How many rows the statement inserted, updated, deleted, selected, moved, fetched or copied; 0 for others.
    public var affectedRows: Int { Int(String(cString: PQcmdTuples((tagged ?? storage).pointer))) ?? 0 }

    /// What PostgreSQL calls the statement, like `INSERT 0 1` or `COMMIT`.
    ///
    /// A COMMIT in a failed transaction says `ROLLBACK` here and is no error.
    public var commandTag: String { String(cString: PQcmdStatus((tagged ?? storage).pointer)) }

    /// Lends the bytes of ``commandTag``, which are ASCII.
    public func withCommandTagBytes<Value, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        let origin = tagged ?? storage
        let tag = PQcmdStatus(origin.pointer)
        defer { withExtendedLifetime(origin) {} }
        return try body(UnsafeRawBufferPointer(start: tag, count: tag.map { strlen($0) } ?? 0))
    }

    /// Lends the values of all rows as the server sent them.
    public func withRawRows<Value, Failure: Error>(
        _ body: (borrowing RawRows) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        defer { withExtendedLifetime(storage) {} }
        return try body(RawRows(storage.pointer))
    }

    /// Lends one value as the server sent it, nil for NULL; for many, ``withRawRows(_:)`` costs less.
    public func withBytes<Value, Failure: Error>(
        row: Int, column: Int, _ body: (UnsafeRawBufferPointer?) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        try withRawRows { (rows) throws(Failure) in try body(rows[row, column]) }
    }
}

extension SQLResult: RandomAccessCollection {
    public var startIndex: Int { 0 }
    public var endIndex: Int { Int(PQntuples(storage.pointer)) }

    public subscript(row: Int) -> SQLRow {
        precondition(indices.contains(row), "row \(row) of a result of \(count) rows")
        return SQLRow(owner: storage, result: storage.pointer, row: Int32(row))
    }
}

/// One row of a result.
///
/// Columns are numbered from 0. The accessors throw ``ShardError/Kind/decoding`` when there is no such column, when the
/// value is NULL (ask ``isNull(_:)`` first where it may be), or when it is not what it is read as.
public struct SQLRow: @unchecked Sendable {
    /// Frees the result, which nothing changes any more, so any thread may read it.
    private let owner: AnyObject
    private let result: OpaquePointer
    private let row: Int32

    init(owner: AnyObject, result: OpaquePointer, row: Int32) {
        self.owner = owner
        self.result = result
        self.row = row
    }

    public var columnCount: Int { Int(PQnfields(result)) }

    public func isNull(_ column: Int) throws(ShardError) -> Bool {
        defer { withExtendedLifetime(owner) {} }
        try check(column)
        return PQgetisnull(result, row, Int32(column)) == 1
    }

    /// The value of a `smallint`, `integer`, `bigint` or `oid`, or any type's text that is a number.
    public func int64(_ column: Int) throws(ShardError) -> Int64 {
        try read(column, as: "an integer") { $0.isText ? $0.decimal : $0.integer }
    }

    /// The value of a `real`, `double precision` or integer, or any type's text that is a number.
    public func double(_ column: Int) throws(ShardError) -> Double {
        try read(column, as: "a number") { $0.isText ? Double($0.string) : $0.floatingPoint }
    }

    /// The value of a `boolean`.
    public func bool(_ column: Int) throws(ShardError) -> Bool {
        try read(column, as: "a boolean") { value in
            guard value.type == .bool, let byte = value.bytes.first else { return nil }
            return byte == 1 || byte == UInt8(ascii: "t")
        }
    }

    /// Any value in text format, and in binary format that of a type made of characters, an integer or a boolean.
    public func text(_ column: Int) throws(ShardError) -> String {
        try read(column, as: "text") { value in
            if value.isText || value.type?.isCharacters == true { return value.string }
            if let number = value.integer { return String(number) }
            return value.type == .bool ? (value.bytes.first == 1 ? "t" : "f") : nil
        }
    }

    /// The bytes of a `bytea` in either format; of any other type as the server sent them.
    public func bytes(_ column: Int) throws(ShardError) -> [UInt8] {
        try read(column, as: "hexadecimal bytes") { value in
            value.isText && value.type == .bytea ? value.hexadecimal : Array(value.bytes)
        }
    }

    /// Lends a value as the server sent it, nil for NULL. There must be such a column.
    public func withBytes<Value, Failure: Error>(
        _ column: Int, _ body: (UnsafeRawBufferPointer?) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        precondition(column >= 0 && column < columnCount, "column \(column) of \(columnCount)")
        defer { withExtendedLifetime(owner) {} }
        return try body(rawValue(result, row, Int32(column)))
    }

    private func check(_ column: Int) throws(ShardError) {
        guard column >= 0, column < columnCount else {
            throw ShardError(.decoding, "there is no column \(column) in a row of \(columnCount)")
        }
    }

    private func read<Value>(
        _ column: Int, as expected: String, _ decode: (SQLValue) -> Value?
    ) throws(ShardError) -> Value {
        defer { withExtendedLifetime(owner) {} }
        try check(column)
        let number = Int32(column)
        guard let bytes = rawValue(result, row, number) else { throw unexpected(column, "not null") }
        let value = SQLValue(
            type: SQLValue.PostgresType(rawValue: PQftype(result, number)),
            isText: PQfformat(result, number) == 0, bytes: bytes)
        guard let decoded = decode(value) else { throw unexpected(column, expected) }
        return decoded
    }

    /// The value itself stays out of the message: it may be a secret.
    private func unexpected(_ column: Int, _ expected: String) -> ShardError {
        let name = String(cString: PQfname(result, Int32(column)))
        let type = PQftype(result, Int32(column))
        return ShardError(.decoding, "column \(column) \"\(name)\" of type \(type) is not \(expected)")
    }
}
