public import Placement
import TransactionCore

/// Splits the data of a COPY FROM by rows: each goes, as it is, to the shard of its key.
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

    private let isBinary: Bool
    private let key: ColumnDefinition
    private let type: ShardKeyType
    /// For each bucket, the shard's place in the map's shards.
    private let owners: [UInt16]
    private let keyReader: CopyKeyReader
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
    public init(_ dialect: CopyDialect, key: ColumnDefinition, at column: Int, buckets: BucketMap) {
        guard let type = key.shardKeyType else { preconditionFailure("\(key.name) can't be a shard key") }
        isBinary = dialect.format == .binary
        (self.key, self.type, owners) = (key, type, buckets.owners)
        keyReader = CopyKeyReader(dialect, column: column, name: key.name)
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
    public mutating func split(into outputs: inout [[UInt8]]) throws(StatementError) -> Stop? {
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
        _ bytes: UnsafeBufferPointer<UInt8>, _ outputs: inout [[UInt8]]
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
        _ bytes: UnsafeBufferPointer<UInt8>, _ outputs: inout [[UInt8]]
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
    private mutating func endBinary(_ bytes: UnsafeBufferPointer<UInt8>, _ outputs: inout [[UInt8]]) -> Stop? {
        guard isLast, start < bytes.count else { return nil }
        outputs[0] += bytes[start...]
        start = bytes.count
        return nil
    }

    // MARK: Rows

    /// Puts a row out; `row` is where it is written, and `whole` with the end of its line.
    private mutating func put(
        _ bytes: UnsafeBufferPointer<UInt8>, _ row: Range<Int>, _ whole: Range<Int>, _ outputs: inout [[UInt8]]
    ) -> Stop? {
        if headerIsDue {
            headerIsDue = false
            preamble = Array(bytes[whole])
            return nil
        }
        let place: Place
        if let decided {
            place = decided
            self.decided = nil
        } else {
            switch keyReader.key(of: bytes, row) {
            case .missing, .null: place = .none
            case .plain(let field):
                guard let hash = hash(UnsafeBufferPointer(rebasing: bytes[field])) else {
                    return .unknown(key: Array(bytes[field]))
                }
                place = .hash(hash)
            case .decoded(let value):
                guard let hash = value.withUnsafeBufferPointer({ hash($0) }) else {
                    return .unknown(key: value)
                }
                place = .hash(hash)
            }
        }
        outputs[output(of: place)] += UnsafeBufferPointer(rebasing: bytes[whole])
        return nil
    }

    private func output(of place: Place) -> Int {
        switch place {
        case .none: 0
        case .hash(let hash): Int(owners[BucketMap.bucket(ofHash: hash)])
        }
    }

    /// The hash of the value that will be stored; nil when only the server can tell.
    private func hash(_ value: UnsafeBufferPointer<UInt8>) -> Int64? {
        if !isBinary, type.family == .integer, let number = Self.shortNumber(value) {
            // Out of the column's range, the server refuses it wherever it is.
            return ShardKeyHash.hash(number)
        }
        guard key.stores(value) else { return nil }
        return type.hash(value, isBinary ? .binary : .text)
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
