import CLibPQ

/// Values as the server sent them, where they lie: nothing is copied, decoded or allocated.
///
/// Lent to a closure, beyond whose end neither it nor the memory it points to may be used.
public struct RawRows: ~Copyable {
    private let storage: SQLResult.Storage
    public let count: Int
    public let columnCount: Int

    init(_ storage: SQLResult.Storage) {
        self.storage = storage
        (count, columnCount) = (storage.count, storage.columnCount)
    }

    /// The bytes of a value in its column's format; nil for NULL.
    public subscript(row: Int, column: Int) -> UnsafeRawBufferPointer? {
        precondition(row >= 0 && row < count, "row \(row) of \(count)")
        precondition(column >= 0 && column < columnCount, "column \(column) of \(columnCount)")
        return storage.value(row, column)
    }

    /// These rows as DataRow messages of the wire protocol, one behind the other; nil when they don't lie like that,
    /// which they do in batches of a stream.
    public func messages(_ rows: Range<Int>) -> UnsafeRawBufferPointer? {
        precondition(rows.lowerBound >= 0 && rows.upperBound <= count, "rows \(rows) of \(count)")
        return storage.packed?.messages(rows)
    }
}

/// The bytes of a value; nil for NULL. There must be such a row and column: past them libpq would call the notice
/// receiver of a connection that may be gone.
func rawValue(_ result: OpaquePointer, _ row: Int32, _ column: Int32) -> UnsafeRawBufferPointer? {
    let count = PQgetlength(result, row, column)
    if count == 0, PQgetisnull(result, row, column) == 1 { return nil }
    return UnsafeRawBufferPointer(start: PQgetvalue(result, row, column), count: Int(count))
}
