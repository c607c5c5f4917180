import CLibPQ

// Results made of others. libpq copies every byte.
extension SQLResult {
    /// One result of the rows of several that have the same columns, in another order. Its ``commandTag`` is empty.
    ///
    /// - Parameter order: which row of which part comes next.
    /// - Throws: ``ShardError/Kind/invalidUse`` without parts, or when memory is short.
    public static func assembled(
        from parts: [SQLResult], order: [(part: Int, row: Int)]
    ) throws(ShardError) -> SQLResult {
        guard let first = parts.first,
            let pointer = PQcopyResult(first.storage.pointer, PG_COPYRES_ATTRS)
        else { throw ShardError(.invalidUse, "there is nothing to make a result of") }
        let assembled = SQLResult(owning: pointer).described(as: first.fields)
        defer { withExtendedLifetime(parts) {} }
        for (number, place) in order.enumerated() {
            for column in 0..<Int32(first.columnCount) {
                try put(parts[place.part].storage.value(place.row, Int(column)), in: pointer, Int32(number), column)
            }
        }
        return assembled
    }

    /// The same result with other values in some columns; NULLs stay.
    public func replacing(
        _ columns: [Int], _ change: (_ column: Int, _ bytes: inout [UInt8]) -> Void
    ) throws(ShardError) -> SQLResult {
        guard let pointer = PQcopyResult(storage.pointer, PG_COPYRES_ATTRS) else {
            throw ShardError(.invalidUse, "out of memory for a result of \(count) rows")
        }
        let changed = SQLResult(owning: pointer, taggedAs: self)
        defer { withExtendedLifetime(self) {} }
        for row in 0..<count {
            for column in 0..<columnCount {
                let value = storage.value(row, column)
                guard columns.contains(column), let value else {
                    try Self.put(value, in: pointer, Int32(row), Int32(column))
                    continue
                }
                var bytes = Array(value)
                change(column, &bytes)
                let failure = bytes.withUnsafeBytes { bytes -> ShardError? in
                    do throws(ShardError) {
                        try Self.put(bytes, in: pointer, Int32(row), Int32(column))
                    } catch { return error }
                    return nil
                }
                if let failure { throw failure }
            }
        }
        return changed
    }

    /// Whether a column's type is such, by its number on the server.
    public func hasType(where condition: (UInt32) -> Bool) -> Bool {
        defer { withExtendedLifetime(storage) {} }
        return (0..<Int32(columnCount)).contains { condition(PQftype(storage.pointer, $0)) }
    }

    private static func put(
        _ value: UnsafeRawBufferPointer?, in result: OpaquePointer, _ row: Int32, _ column: Int32
    ) throws(ShardError) {
        // It takes the bytes as a string that it might change, and does not. An empty value is not NULL.
        let bytes = value?.baseAddress.map {
            UnsafeMutableRawPointer(mutating: $0).assumingMemoryBound(to: CChar.self)
        }
        guard PQsetvalue(result, row, column, bytes, value.map { Int32($0.count) } ?? -1) == 1 else {
            throw ShardError(.invalidUse, "out of memory for a result's row \(row)")
        }
    }
}
