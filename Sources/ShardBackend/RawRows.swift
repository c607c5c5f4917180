import CLibPQ

/// Values as the server sent them, where libpq put them: nothing is copied, decoded or allocated.
///
/// Lent to a closure, beyond whose end neither it nor the memory it points to may be used.
public struct RawRows: ~Copyable {
    private let result: OpaquePointer
    public let count: Int
    public let columnCount: Int

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
}

/// The bytes of a value; nil for NULL. There must be such a row and column: past them libpq would call the notice
/// receiver of a connection that may be gone.
func rawValue(_ result: OpaquePointer, _ row: Int32, _ column: Int32) -> UnsafeRawBufferPointer? {
    let count = PQgetlength(result, row, column)
    if count == 0, PQgetisnull(result, row, column) == 1 { return nil }
    return UnsafeRawBufferPointer(start: PQgetvalue(result, row, column), count: Int(count))
}
