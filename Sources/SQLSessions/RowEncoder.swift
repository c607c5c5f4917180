import PostgresWire
import ShardBackend
import TransactionCore

/// Writes a shard's rows as the client wants them.
///
/// libpq takes one format for all columns of a result. When a client wants some as text and some binary, the shard is
/// asked for binary, and text is made of it: here for the commonest types, by a server for the others
/// (``ColumnTexts``).
struct RowEncoder {
    /// What is done with a column's values.
    private enum Treatment {
        case copy
        case integer
        case boolean
        /// After one byte, a version number, comes the text.
        case versioned
        /// A server writes it.
        case written
    }

    private let treatments: [Treatment]
    /// All are copied.
    private let isPlain: Bool

    init(_ fields: [ResultField], _ formats: [FormatCode]) {
        treatments = fields.enumerated().map { index, field in
            guard field.isBinary, formats.format(at: index) == .text else { return .copy }
            return switch field.typeOID {
            // "char", name, text, json, xml, unknown, bpchar, varchar
            case 18, 19, 25, 114, 142, 705, 1042, 1043: .copy
            // int8, int2, int4, oid
            case 20, 21, 23, 26: .integer
            case 16: .boolean
            case 3802: .versioned
            default: .written
            }
        }
        isPlain = treatments.allSatisfy { if case .copy = $0 { true } else { false } }
    }

    /// The columns that a server must write; their texts are given to ``write(_:_:to:)``.
    var writtenColumns: [Int] {
        isPlain ? [] : treatments.indices.filter { if case .written = treatments[$0] { true } else { false } }
    }

    func write(_ block: RowBlock, _ texts: ColumnTexts, to writer: inout BackendWriter) {
        block.withRawRows { rows, range in
            if isPlain, rows.columnCount == treatments.count, let messages = rows.messages(range) {
                return writer.dataRows(messages)
            }
            for row in range {
                guard !isPlain else {
                    writer.dataRow(columns: treatments.count) { rows[row, $0] }
                    continue
                }
                writer.beginDataRow(columns: treatments.count)
                for column in treatments.indices {
                    if case .written = treatments[column] {
                        write(texts.text(row - range.lowerBound, column), to: &writer)
                    } else {
                        write(rows[row, column], treatments[column], to: &writer)
                    }
                }
                writer.endDataRow()
            }
        }
    }

    private func write(_ value: UnsafeRawBufferPointer?, _ treatment: Treatment, to writer: inout BackendWriter) {
        guard let value else { return writer.column(UnsafeRawBufferPointer?.none) }
        switch treatment {
        case .copy, .written: writer.column(value)
        case .versioned: writer.column(UnsafeRawBufferPointer(rebasing: value.dropFirst()))
        case .boolean: writer.column(value.first == 1 ? "t" : "f")
        case .integer:
            let bits = value.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            let shift = UInt64(64 - value.count * 8)
            writer.column(String(Int64(bitPattern: bits << shift) >> Int64(shift)))
        }
    }

    private func write(_ text: [UInt8]?, to writer: inout BackendWriter) {
        guard let text else { return writer.column(UnsafeRawBufferPointer?.none) }
        text.withUnsafeBytes { writer.column($0) }
    }
}
