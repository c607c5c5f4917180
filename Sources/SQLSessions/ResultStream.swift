import EventLoops
import ShardBackend
import TransactionCore
import TransactionEngine

/// How the rows of a statement are wanted.
enum ResultDelivery: Sendable {
    /// All of them before anything is done with the first.
    case whole
    /// As they arrive, without a pause in which the transaction does something else.
    case streamed
    /// As they arrive, so many at a time, and the transaction may do something else in between.
    case inPortions
}

/// Where the rows of a result come from that are not there yet.
protocol RowSource: Sendable {
    /// The next rows, none at times; nil after the last.
    func nextBlock() async throws(TransactionError) -> RowBlock?
    /// The command tag, once all rows have been read.
    var tag: String { get async }
    /// No more rows are wanted.
    func close() async
}

/// The rows of a statement as they arrive from its shards, one shard's after the other's.
///
/// Letting go of it stops what is under way.
actor ResultStream: RowSource {
    typealias Source = ShardStream<SQLRowStream>

    /// Begins the rows of a shard.
    typealias Begin = @Sendable (ShardID) async throws(TransactionError) -> Source

    /// Is told of all rows when they have been read; of nil when they broke off.
    typealias Completion = @Sendable (RowsDigest?) -> Void

    nonisolated let fields: [ResultField]
    private var sources: ArraySlice<Source>
    /// Those whose rows are begun when the ones before have been read.
    private var upcoming: ArraySlice<ShardID> = []
    private let begin: Begin?
    private var endings: [SQLResult] = []
    /// Nil when nobody wants to know.
    private var digest: RowsDigest?
    private let completion: Completion?
    private let loop: EventLoop

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    /// Reads streams of all shards.
    ///
    /// - Parameter completion: is told the digest of all rows at their end.
    init(_ begun: [Source], on loop: EventLoop, completion: Completion?) async {
        (self.loop, self.completion, begin) = (loop, completion, nil)
        sources = begun[...]
        digest = completion.map { _ in RowsDigest() }
        fields = await begun[0].firstPiece?.fields ?? []
    }

    /// Reads shards of which each is begun when the one before has been read.
    init(
        of shards: [ShardID], on loop: EventLoop, completion: Completion?, begin: @escaping Begin
    ) async throws(TransactionError) {
        (self.loop, self.completion, self.begin) = (loop, completion, begin)
        let first = try await begin(shards[0])
        sources = [first]
        upcoming = shards[1...]
        digest = completion.map { _ in RowsDigest() }
        fields = await first.firstPiece?.fields ?? []
    }

    func nextBlock() async throws(TransactionError) -> RowBlock? {
        try await next().map { RowBlock($0.rows) }
    }

    private func next() async throws(TransactionError) -> SQLRowBatch? {
        do throws(TransactionError) {
            if sources.isEmpty, let begin, let shard = upcoming.popFirst() { sources = [try await begin(shard)] }
            guard let source = sources.first, let batch = try await source.next() else { return nil }
            if digest != nil { batch.rows.withRawRows { digest!.add($0) } }
            if let ending = batch.ending {
                endings.append(ending)
                sources = sources.dropFirst()
                if sources.isEmpty, upcoming.isEmpty, let digest { completion?(digest) }
            }
            return batch
        } catch {
            (sources, upcoming) = ([], [])
            completion?(nil)
            throw error
        }
    }

    /// Reads on to the end, and keeps nothing.
    func digestOfRest() async throws(TransactionError) -> RowsDigest {
        var digest = RowsDigest()
        while let batch = try await next() { batch.rows.withRawRows { digest.add($0) } }
        return digest
    }

    var tag: String { StatementResult.tag(of: endings) }

    func close() { (sources, upcoming) = ([], []) }
}

/// Rows of a result that lie together in memory.
struct RowBlock: Sendable {
    private let result: SQLResult
    /// Which of its rows.
    private var rows: Range<Int>

    init(_ result: SQLResult) {
        self.result = result
        rows = 0..<result.count
    }

    var count: Int { rows.count }

    /// Takes the first rows off, at most `limit`.
    mutating func take(atMost limit: Int) -> RowBlock {
        var taken = self
        taken.rows = rows.lowerBound..<(rows.lowerBound + min(limit, rows.count))
        rows = taken.rows.upperBound..<rows.upperBound
        return taken
    }

    /// Some of the rows, by their numbers within the block.
    subscript(range: Range<Int>) -> RowBlock {
        var some = self
        some.rows = (rows.lowerBound + range.lowerBound)..<(rows.lowerBound + range.upperBound)
        return some
    }

    /// What the values take.
    var byteCount: Int {
        result.withRawRows { raw in
            rows.reduce(0) { sum, row in
                (0..<raw.columnCount).reduce(sum) { $0 + 8 + (raw[row, $1]?.count ?? 0) }
            }
        }
    }

    /// Lends the values of the rows with these numbers.
    func withRawRows<Value>(_ body: (borrowing RawRows, Range<Int>) -> Value) -> Value {
        result.withRawRows { body($0, rows) }
    }
}

/// Reads a result from its first row to its last, in portions of any size.
struct ResultReader: Sendable {
    let fields: [ResultField]
    /// They are rows, be it without any column.
    let isRows: Bool
    private let heldTag: String
    private var parts: ArraySlice<SQLResult>
    private var rest: (any RowSource)?
    private var block: RowBlock?

    init(_ result: StatementResult) {
        (fields, isRows, heldTag, rest) = (result.fields, result.isRows, result.tag, result.rest)
        parts = result.parts[...]
    }

    /// The next rows, as many as lie together and at most `limit`; nil after the last.
    mutating func next(atMost limit: Int) async throws(TransactionError) -> RowBlock? {
        while true {
            if let rows = block?.take(atMost: limit), rows.count > 0 { return rows }
            // Before others are waited for: these rows need not be kept meanwhile.
            block = nil
            if let part = parts.popFirst() {
                block = RowBlock(part)
            } else if let rest, let next = try await rest.nextBlock() {
                block = next
            } else {
                return nil
            }
        }
    }

    /// It holds what more rows come from.
    var isOpen: Bool { rest != nil }

    /// The command tag, once all rows have been read.
    var tag: String {
        get async { if let rest { await rest.tag } else { heldTag } }
    }

    /// No more rows are wanted.
    func close() async { await rest?.close() }
}

extension RowsDigest {
    /// Adds rows of which each is looked at as it was sent.
    mutating func add(_ rows: borrowing RawRows) {
        for row in 0..<rows.count {
            var hashers = (Hasher(), Hasher())
            hashers.1.combine(1)
            for column in 0..<rows.columnCount {
                let value = rows[row, column]
                hashers.0.combine(value?.count ?? -1)
                hashers.1.combine(value?.count ?? -1)
                if let value {
                    hashers.0.combine(bytes: value)
                    hashers.1.combine(bytes: value)
                }
            }
            add(hashers.0.finalize(), hashers.1.finalize())
        }
    }
}
