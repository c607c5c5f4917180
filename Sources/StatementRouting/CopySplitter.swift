public import Placement
import TransactionCore

/// Splits the data of a COPY FROM by rows: each goes, as it is, to the shard of its key, and the values of its primary
/// key are noted if they are asked for.
///
/// Data is fed in pieces of any size; only a row that is not complete is kept. What every shard must see, in front of
/// its rows and behind them, is ``preamble`` and ``postamble``.
public struct CopySplitter: Sendable {
    /// Why ``split(into:)`` stopped before the end of what it has.
    public enum Stop: Hashable, Sendable {
        /// The key of the next row takes a server to read; ``CopySplitter/decide(_:)`` goes on.
        case unknown(key: [UInt8])
    }

    /// Where a row goes.
    public enum Place: Hashable, Sendable {
        case hash(Int64)
        /// NULL, or no value: any shard refuses it.
        case none
    }

    /// What comes before the rows, once the first row has been put out: a line with names, a binary header.
    public private(set) var preamble: [UInt8] = []
    /// What comes behind the rows: the end of the binary format.
    public private(set) var postamble: [UInt8] = []

    /// What decides where a row goes.
    private struct ShardKey {
        let column: ColumnDefinition
        let type: ShardKeyType
        let reader: CopyKeyReader
        /// For each bucket, the shard's place in the map's shards.
        let owners: [UInt16]
    }

    private let isBinary: Bool
    /// Nil when all rows go to ``onlyPlace``.
    private let shardKey: ShardKey?
    private let onlyPlace: Int
    /// Of the columns whose values are noted.
    private let noted: [CopyKeyReader]
    private var scanner: CopyRowScanner
    private var buffer: [UInt8] = []
    /// Where the next row begins.
    private var start = 0
    private var headerIsDue: Bool
    private var hasEnded = false
    private var isLast = false
    /// What the server has said of the next row's key.
    private var decided: Place?

    /// Prepares for one COPY.
    ///
    /// - Parameters:
    ///   - key: the shard key, of a type that has a hash, and its place among the columns copied, from 0.
    ///   - buckets: its shards stand in the order of the outputs.
    ///   - noting: the columns whose values are noted, and their places among those copied.
    public init(
        _ dialect: CopyDialect, key: ColumnDefinition, at column: Int, buckets: BucketMap,
        noting columns: [(name: String, place: Int)] = []
    ) {
        guard let type = key.shardKeyType else { preconditionFailure("\(key.name) can't be a shard key") }
        let shardKey = ShardKey(
            column: key, type: type, reader: CopyKeyReader(dialect, column: column, name: key.name),
            owners: buckets.owners)
        self.init(dialect, shardKey, onlyPlace: 0, columns)
    }

    /// Prepares for a COPY whose rows all go to one output, to note the values of columns.
    public init(_ dialect: CopyDialect, to place: Int, noting columns: [(name: String, place: Int)]) {
        self.init(dialect, nil, onlyPlace: place, columns)
    }

    private init(
        _ dialect: CopyDialect, _ shardKey: ShardKey?, onlyPlace: Int, _ columns: [(name: String, place: Int)]
    ) {
        isBinary = dialect.format == .binary
        (self.shardKey, self.onlyPlace) = (shardKey, onlyPlace)
        noted = columns.map { CopyKeyReader(dialect, column: $0.place, name: $0.name) }
        scanner = CopyRowScanner(dialect)
        headerIsDue = isBinary || dialect.hasHeader
    }

    /// How many bytes are kept.
    public var keptBytes: Int { buffer.count - start }

    /// Takes more data.
    public mutating func append(_ bytes: some Collection<UInt8>) {
        buffer.removeSubrange(..<start)
        scanner.drop(start)
        start = 0
        buffer += bytes
    }

    /// No more data will come: what is kept is the last row.
    public mutating func finish() { isLast = true }

    /// Says where the row goes that ``split(into:)`` stopped at.
    public mutating func decide(_ place: Place) { decided = place }

    /// Appends complete rows to the output of their shard, as far as they are there.
    ///
    /// Throws 22P04 for data that breaks off the order of rows, with PostgreSQL's words.
    ///
    /// - Returns: what must be known to go on; nil when more data, or nothing, is needed.
    public mutating func split(into outputs: inout [CopyPart]) throws(StatementError) -> Stop? {
        let bytes = buffer
        let result = bytes.withUnsafeBufferPointer { pointer -> Result<Stop?, StatementError> in
            do throws(StatementError) {
                return .success(isBinary ? try splitBinary(pointer, &outputs) : try splitLines(pointer, &outputs))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    // MARK: Text and CSV

    private mutating func splitLines(
        _ bytes: UnsafeBufferPointer<UInt8>, _ outputs: inout [CopyPart]
    ) throws(StatementError) -> Stop? {
        while !hasEnded {
            // A row whose key was unknown was found before.
            var next = scanner
            let contentEnd: Int
            let end: Int
            switch try next.next(bytes, from: start, isLast: isLast) {
            case .row(let content, let behind): (contentEnd, end) = (content, behind)
            case .endOfData(let content):
                hasEnded = true
                (contentEnd, end) = (content, content)
            case .more:
                guard isLast else {
                    scanner = next
                    return nil
                }
                hasEnded = true
                (contentEnd, end) = (bytes.count, bytes.count)
            }
            if end > start, let stop = put(bytes, start..<contentEnd, start..<end, &outputs) {
                hasEnded = false
                return stop
            }
            scanner = next
            start = end
        }
        start = bytes.count
        return nil
    }

    // MARK: Binary

    private static let signature = Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0x00]

    private mutating func splitBinary(
        _ bytes: UnsafeBufferPointer<UInt8>, _ outputs: inout [CopyPart]
    ) throws(StatementError) -> Stop? {
        if headerIsDue, try !takeHeader(bytes) { return endBinary(bytes, &outputs) }
        while !hasEnded, bytes.count - start >= 2 {
            let columns = bytes.bigEndian(at: start, as: Int16.self)
            guard columns >= 0 else {
                hasEnded = true
                postamble = Array(bytes[start..<(start + 2)])
                start = bytes.count
                return nil
            }
            guard let end = try Self.endOfRow(bytes, start + 2, columns) else { break }
            if let stop = put(bytes, start..<end, start..<end, &outputs) { return stop }
            start = end
        }
        return endBinary(bytes, &outputs)
    }

    private static func endOfRow(
        _ bytes: UnsafeBufferPointer<UInt8>, _ start: Int, _ columns: Int16
    ) throws(StatementError) -> Int? {
        var index = start
        for _ in 0..<columns {
            guard bytes.count - index >= 4 else { return nil }
            let length = Int(bytes.bigEndian(at: index, as: Int32.self))
            guard length >= -1 else { throw CopyRowScanner.badData("invalid field size") }
            index += 4 + max(0, length)
            guard index <= bytes.count else { return nil }
        }
        return index
    }

    /// Takes signature, flags and extension; false while they are not all there.
    private mutating func takeHeader(_ bytes: UnsafeBufferPointer<UInt8>) throws(StatementError) -> Bool {
        guard bytes.prefix(Self.signature.count).elementsEqual(Self.signature.prefix(bytes.count)) else {
            throw CopyRowScanner.badData("COPY file signature not recognized")
        }
        guard bytes.count >= 19 else { return false }
        let length = Int(bytes.bigEndian(at: 15, as: Int32.self))
        guard length >= 0 else { throw CopyRowScanner.badData("invalid COPY file header (missing length)") }
        guard bytes.count >= 19 + length else { return false }
        headerIsDue = false
        start = 19 + length
        preamble = Array(bytes[..<start])
        return true
    }

    /// A row that is cut off is the server's to refuse.
    private mutating func endBinary(_ bytes: UnsafeBufferPointer<UInt8>, _ outputs: inout [CopyPart]) -> Stop? {
        guard isLast, start < bytes.count else { return nil }
        outputs[0].bytes += bytes[start...]
        start = bytes.count
        return nil
    }

    // MARK: Rows

    /// Puts a row out; `row` is where it is written, and `whole` with the end of its line.
    private mutating func put(
        _ bytes: UnsafeBufferPointer<UInt8>, _ row: Range<Int>, _ whole: Range<Int>, _ outputs: inout [CopyPart]
    ) -> Stop? {
        if headerIsDue {
            headerIsDue = false
            preamble = Array(bytes[whole])
            return nil
        }
        var output = onlyPlace
        if let shardKey {
            guard let place = decided ?? place(of: bytes, row, shardKey) else { return unknown(bytes, row, shardKey) }
            decided = nil
            if case .hash(let hash) = place { output = Int(shardKey.owners[BucketMap.bucket(ofHash: hash)]) }
        }
        outputs[output].bytes += UnsafeBufferPointer(rebasing: bytes[whole])
        if !noted.isEmpty { note(bytes, row, &outputs[output].keys) }
        return nil
    }

    /// Of a row that lacks a value, which the server will refuse, nothing is noted.
    private func note(_ bytes: UnsafeBufferPointer<UInt8>, _ row: Range<Int>, _ keys: inout CopyKeys) {
        for (index, reader) in noted.enumerated() {
            switch reader.key(of: bytes, row) {
            case .missing, .null: break
            case .plain(let field): keys.append(UnsafeBufferPointer(rebasing: bytes[field]), to: index)
            case .decoded(let value): value.withUnsafeBufferPointer { keys.append($0, to: index) }
            }
        }
        keys.endRow()
    }

    /// Nil when only the server can tell.
    private func place(
        of bytes: UnsafeBufferPointer<UInt8>, _ row: Range<Int>, _ key: ShardKey
    ) -> Place? {
        switch key.reader.key(of: bytes, row) {
        case .missing, .null: Place.none
        case .plain(let field): hash(UnsafeBufferPointer(rebasing: bytes[field]), key).map { .hash($0) }
        case .decoded(let value): value.withUnsafeBufferPointer { hash($0, key) }.map { .hash($0) }
        }
    }

    private func unknown(_ bytes: UnsafeBufferPointer<UInt8>, _ row: Range<Int>, _ key: ShardKey) -> Stop? {
        switch key.reader.key(of: bytes, row) {
        case .missing, .null: nil
        case .plain(let field): .unknown(key: Array(bytes[field]))
        case .decoded(let value): .unknown(key: value)
        }
    }

    /// The hash of the value that will be stored; nil when only the server can tell.
    private func hash(_ value: UnsafeBufferPointer<UInt8>, _ key: ShardKey) -> Int64? {
        if !isBinary, key.type.family == .integer, let number = Self.shortNumber(value) {
            // Out of the column's range, the server refuses it wherever it is.
            return ShardKeyHash.hash(number)
        }
        guard key.column.stores(value) else { return nil }
        return key.type.hash(value, isBinary ? .binary : .text)
    }

    /// The usual way to write an integer, read without allocating.
    private static func shortNumber(_ bytes: UnsafeBufferPointer<UInt8>) -> Int64? {
        let isNegative = bytes.first == UInt8(ascii: "-")
        let digits = isNegative ? bytes.dropFirst() : bytes[...]
        guard (1...18).contains(digits.count) else { return nil }
        var number: Int64 = 0
        for digit in digits {
            guard (0x30...0x39).contains(digit) else { return nil }
            number = number * 10 + Int64(digit - 0x30)
        }
        return isNegative ? -number : number
    }
}

extension ColumnDefinition {
    /// Whether a value is stored as it is: a precision or length may round or cut it.
    func stores(_ value: some BidirectionalCollection<UInt8>) -> Bool {
        guard typeName.contains("(") else { return true }
        return switch type {
        case ShardKeyType.bpchar.rawValue: true
        case ShardKeyType.varchar.rawValue: value.last != 32
        default: false
        }
    }
}
