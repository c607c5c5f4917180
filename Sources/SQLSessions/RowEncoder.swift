import PostgresWire
import ShardBackend
import TransactionCore

/// Writes a shard's rows as the client wants them.
///
/// libpq takes one format for all columns of a result. When a client wants some as text and some binary, the shard is
/// asked for binary, and text is made of it here: for types made of characters it is the same bytes.
struct RowEncoder {
    /// What is done with a column's values.
    private enum Treatment {
        case copy
        case integer
        case boolean
        case refuse(type: UInt32, name: String)
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
            default: .refuse(type: field.typeOID, name: field.name)
            }
        }
        isPlain = treatments.allSatisfy { if case .copy = $0 { true } else { false } }
    }

    /// Throws for columns that can't be written as they are asked for.
    func check() throws(TransactionError) {
        if !isPlain {
            for case .refuse(let type, let name) in treatments {
                throw TransactionError(
                    .featureNotSupported, "column \"\(name)\" of type \(type) can't be text while others are binary",
                    hint: "ask for all columns in one format, or cast it to text")
            }
        }
    }

    func write(_ block: RowBlock, to writer: inout BackendWriter) {
        block.withRawRows { rows, range in
            for row in range {
                guard !isPlain else {
                    writer.dataRow(columns: treatments.count) { rows[row, $0] }
                    continue
                }
                writer.beginDataRow(columns: treatments.count)
                for column in treatments.indices { write(rows[row, column], treatments[column], to: &writer) }
                writer.endDataRow()
            }
        }
    }

    private func write(_ value: UnsafeRawBufferPointer?, _ treatment: Treatment, to writer: inout BackendWriter) {
        guard let value else { return writer.column(UnsafeRawBufferPointer?.none) }
        switch treatment {
        case .copy, .refuse: writer.column(value)
        case .boolean: writer.column(value.first == 1 ? "t" : "f")
        case .integer:
            let bits = value.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
            let shift = UInt64(64 - value.count * 8)
            writer.column(String(Int64(bitPattern: bits << shift) >> Int64(shift)))
        }
    }
}
