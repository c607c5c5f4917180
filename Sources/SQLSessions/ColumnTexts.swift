import ShardBackend

/// Texts of values that came in binary: of columns that the client wants as text while it wants others in binary.
///
/// A shard's PostgreSQL makes them, since only that knows how a type is written under the client's settings.
struct ColumnTexts: Sendable {
    /// By column: one text per row, nil for NULL.
    private var texts: [Int: [[UInt8]?]] = [:]

    /// How many values can be written at once: each is a parameter, and there may be 65535.
    static let valuesMax = 16_384

    /// No column's.
    init() {}

    /// Takes them from what ``query(of:_:fields:)`` returned for these columns and that many rows.
    init(of columns: [Int], rowCount: Int, _ written: SQLResult) {
        written.withRawRows { rows in
            for (number, column) in columns.enumerated() {
                let first = number * rowCount
                texts[column] = (first..<(first + rowCount)).map { row in rows[row, 0].map { Array($0) } }
            }
        }
    }

    /// What has a server write `columns` of the rows of `block`; to be run with the client's settings.
    static func query(of columns: [Int], _ block: RowBlock, fields: [ResultField]) -> SQLStatement? {
        guard !columns.isEmpty, block.count > 0 else { return nil }
        var parameters: [SQLParameter] = []
        var types: [UInt32] = []
        for column in columns {
            block.withRawRows { rows, range in
                for row in range { parameters.append(rows[row, column].map { .bytes(Array($0)) } ?? .null) }
            }
            types += Array(repeating: fields[column].typeOID, count: block.count)
        }
        // Not by a cast: of some types, inet for one, that writes something else than the server sends as text.
        let items = parameters.indices.map { index in
            parameters[index] == .null ? "NULL" : "pg_catalog.format('%s', $\(index + 1))"
        }.joined(separator: ", ")
        return SQLStatement(
            "SELECT * FROM pg_catalog.unnest(ARRAY[\(items)]::pg_catalog.text[])", parameters, parameterTypes: types,
            isPrepared: false,
            resultFormat: .text)
    }

    /// The text of a value, `row` being counted from the first that was written.
    func text(_ row: Int, _ column: Int) -> [UInt8]? { texts[column]?[row] ?? nil }
}
