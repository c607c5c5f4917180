import CLibPQ

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
        let assembled = SQLResult(owning: pointer)
        defer { withExtendedLifetime(parts) {} }
        for (number, place) in order.enumerated() {
            let source = parts[place.part].storage.pointer
            for column in 0..<first.columnCount {
                let value = rawValue(source, Int32(place.row), Int32(column))
                // libpq copies the bytes; it takes them as a string that it might change, and does not.
                let bytes = value?.baseAddress.map { UnsafeMutableRawPointer(mutating: $0).assumingMemoryBound(to: CChar.self) }
                guard
                    PQsetvalue(
                        pointer, Int32(number), Int32(column), bytes, value.map { Int32($0.count) } ?? -1) == 1
                else { throw ShardError(.invalidUse, "out of memory for a result of \(order.count) rows") }
            }
        }
        return assembled
    }
}
