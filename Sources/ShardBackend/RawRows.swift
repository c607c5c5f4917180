import CLibPQ
import Glibc

/// Values as the server sent them, where libpq put them: nothing is copied, decoded or allocated.
///
/// Lent to a closure, beyond whose end neither it nor the memory it points to may be used.
public struct RawRows: ~Copyable {
    private let result: OpaquePointer
    public let count: Int
    public let columnCount: Int

    @usableFromInline
    init(_ result: OpaquePointer) {
        self.result = result
        count = Int(PQntuples(result))
        columnCount = Int(PQnfields(result))
    }

    /// The bytes of a value in its column's format; nil for NULL.
    public subscript(row: Int, column: Int) -> UnsafeRawBufferPointer? {
        precondition(row >= 0 && row < count, "row \(row) of \(count)")
        precondition(column >= 0 && column < columnCount, "column \(column) of \(columnCount)")
        return rawValue(result, Int32(row), Int32(column))
    }

    /// What the server says about a column.
    public func field(_ column: Int) -> RawField {
        precondition(column >= 0 && column < columnCount, "column \(column) of \(columnCount)")
        return RawField(result, Int32(column))
    }
}

/// What PostgreSQL says about a column, as ``ResultField``, its name being where libpq put it.
public struct RawField {
    public let name: UnsafeRawBufferPointer
    public let tableOID: UInt32
    public let columnNumber: Int16
    public let typeOID: UInt32
    public let typeSize: Int16
    public let typeModifier: Int32
    public let isBinary: Bool

    init(_ result: OpaquePointer, _ column: Int32) {
        let name = PQfname(result, column)
        self.name = UnsafeRawBufferPointer(start: name, count: name.map { strlen($0) } ?? 0)
        tableOID = PQftable(result, column)
        columnNumber = Int16(truncatingIfNeeded: PQftablecol(result, column))
        typeOID = PQftype(result, column)
        typeSize = Int16(truncatingIfNeeded: PQfsize(result, column))
        typeModifier = PQfmod(result, column)
        isBinary = PQfformat(result, column) == 1
    }
}

/// The bytes of a value; nil for NULL. There must be such a row and column: past them libpq would call the notice
/// receiver of a connection that may be gone.
func rawValue(_ result: OpaquePointer, _ row: Int32, _ column: Int32) -> UnsafeRawBufferPointer? {
    let count = PQgetlength(result, row, column)
    if count == 0, PQgetisnull(result, row, column) == 1 { return nil }
    return UnsafeRawBufferPointer(start: PQgetvalue(result, row, column), count: Int(count))
}
