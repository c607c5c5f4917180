/// What one shard is sent of the data of a COPY FROM, and the keys of these rows.
public struct CopyPart: Sendable {
    public var bytes: [UInt8] = []
    public var keys: CopyKeys

    /// A part without rows, whose keys have so many columns.
    public init(keyColumns: Int = 0) { keys = CopyKeys(columns: keyColumns) }
}

/// The keys of rows, as array literals of PostgreSQL's: a few hundred rows each, one literal for each column.
public struct CopyKeys: Sendable {
    /// With keys in binary an array of about this size stays in its row: from 2 kB on it would be compressed, or kept
    /// out of line.
    private static let literalBytes = 1_500

    private var full: [[String]] = []
    private var literals: [[UInt8]]
    /// How many bytes all literals have.
    public private(set) var byteCount = 0
    /// Those of the literals that are not full.
    private var openByteCount = 0

    init(columns: Int) { literals = Array(repeating: [], count: columns) }

    /// Adds a row's value of a column, as its type reads it.
    mutating func append(_ value: UnsafeBufferPointer<UInt8>, to column: Int) {
        let before = literals[column].count
        Self.append(value, to: &literals[column])
        openByteCount += literals[column].count - before
        byteCount += literals[column].count - before
    }

    mutating func endRow() {
        if openByteCount >= Self.literalBytes { close() }
    }

    private mutating func close() {
        guard openByteCount > 0 else { return }
        full.append(literals.map { String(decoding: $0, as: UTF8.self) + "}" })
        for column in literals.indices { literals[column].removeAll(keepingCapacity: true) }
        openByteCount = 0
    }

    /// Gives the literals of all rows away, those of one group of rows together.
    public mutating func take() -> [[String]] {
        close()
        defer { (full, byteCount) = ([], 0) }
        return full
    }

    /// The literal of an array.
    public static func literal(of values: [String]) -> String {
        var literal: [UInt8] = []
        for value in values { Array(value.utf8).withUnsafeBufferPointer { append($0, to: &literal) } }
        return values.isEmpty ? "{}" : String(decoding: literal, as: UTF8.self) + "}"
    }

    /// Adds an element to the literal of an array, of which the closing brace is left to the caller; nil is NULL.
    public static func append(_ value: UnsafeBufferPointer<UInt8>?, to literal: inout [UInt8]) {
        literal.append(literal.isEmpty ? UInt8(ascii: "{") : UInt8(ascii: ","))
        guard let value else {
            literal += "NULL".utf8
            return
        }
        // A number is taken as it is; of other words some would be NULL, or lose blanks.
        if !value.isEmpty, value.allSatisfy({ (0x30...0x39).contains($0) || $0 == UInt8(ascii: "-") }) {
            literal += value
            return
        }
        literal.append(UInt8(ascii: "\""))
        for byte in value {
            if byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "\\") { literal.append(UInt8(ascii: "\\")) }
            literal.append(byte)
        }
        literal.append(UInt8(ascii: "\""))
    }
}
