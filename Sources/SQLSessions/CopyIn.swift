import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// Takes the rows of one COPY FROM STDIN to their shards, in the client's transaction.
///
/// For a sharded table the data is split by rows; another one's goes as it is to the shard that has it, or to all.
struct CopyIn: Sendable {
    typealias Evaluate = @Sendable (SQLStatement) async throws(TransactionError) -> SQLResult

    /// Where the data goes.
    private enum Destination {
        case split(CopySplitter)
        /// Places among the shards.
        case whole([Int])
    }

    /// So much is gathered for a shard before it is sent.
    private static let bytesPerWrite = 65_536

    private let writer: ReadWriteTransaction
    private let text: String
    private let shards: [ShardID]
    private let key: ColumnDefinition?
    private let isBinary: Bool
    private let evaluate: Evaluate
    /// Nil when all data goes to ``places``.
    private var splitter: CopySplitter?
    private let places: [Int]
    /// By the shard's place: its COPY, once it has begun, and what it is to be sent.
    private var copies: [ShardCopy?]
    private var outputs: [[UInt8]]
    /// The shards that have been sent the preamble.
    private var hasPreamble: Set<Int> = []
    /// By the shard's place, for rows in binary.
    private var translations: [TransactionEngine.RowTranslation?]

    /// Begins the COPY on a shard that it goes to, which sees whether it is right.
    ///
    /// - Parameters:
    ///   - text: the statement.
    ///   - columns: those copied, in their sequence.
    ///   - evaluate: asks a server for values, with the client's settings.
    init(
        _ command: CopyCommand, _ text: String, into table: TableDefinition, columns: [String],
        _ catalog: Catalog, _ writer: ReadWriteTransaction, _ engine: TransactionEngine, evaluate: @escaping Evaluate
    ) async throws(TransactionError) {
        (self.writer, self.text, self.evaluate) = (writer, text, evaluate)
        shards = catalog.buckets.shards
        (copies, outputs, translations) = (shards.map { _ in nil }, shards.map { _ in [] }, shards.map { _ in nil })
        key = table.shardKey
        let dialect = CopyDialect(command.options)
        isBinary = dialect?.format == .binary
        switch try Self.destination(dialect, table, columns, catalog) {
        case .split(let splitter): (self.splitter, places) = (splitter, [0])
        case .whole(let places): (splitter, self.places) = (nil, places)
        }
        for place in places { try await begin(at: place) }
        if isBinary { try await prepareTranslations(engine, table, columns) }
        guard dialect == nil else { return }
        throw TransactionError(
            .featureNotSupported, "the options of this COPY are not supported",
            hint: "send UTF8 in format text, csv or binary")
    }

    /// Values of users' types may have numbers of types in them, which are other ones on each shard.
    private mutating func prepareTranslations(
        _ engine: TransactionEngine, _ table: TableDefinition, _ columns: [String]
    ) async throws(TransactionError) {
        let types = columns.map { name in table.columns.first { $0.name == name }?.type ?? 0 }
        for place in splitter == nil ? places : Array(shards.indices) {
            translations[place] = try await engine.rowTranslation(to: shards[place], of: types)
            // Only rows that are split are told apart.
            guard splitter == nil, translations[place] != nil else { continue }
            throw TransactionError(
                .featureNotSupported, "COPY in binary format into \(table.name) is not supported",
                detail: "its columns have types whose values name other types, by numbers that differ between shards",
                hint: "send text or csv")
        }
    }

    private static func destination(
        _ dialect: CopyDialect?, _ table: TableDefinition, _ columns: [String], _ catalog: Catalog
    ) throws(TransactionError) -> Destination {
        let shards = catalog.buckets.shards
        if case .single(let shard) = table.distribution {
            let place = shards.firstIndex(of: shard) ?? 0
            // Sequences are those of the first shard.
            if place > 0 { try checkDefaults(of: table, columns, onlySequences: true) }
            return .whole([place])
        }
        guard let key = table.shardKey else {
            try checkDefaults(of: table, columns, onlySequences: shards.count == 1)
            return .whole(Array(shards.indices))
        }
        guard shards.count > 1 else { return .whole([0]) }
        try checkDefaults(of: table, columns, onlySequences: true)
        guard let column = columns.firstIndex(of: key.name) else {
            switch key.defaultKind {
            case .constant(let text):
                guard let hash = key.shardKeyType?.hash(text.utf8, .text) else { throw unknownKey(of: table, key) }
                return .whole([shards.firstIndex(of: catalog.buckets.shard(forHash: hash)) ?? 0])
            case .none: return .whole([0])
            case .sequence, .identity, .expression, .computed: throw unknownKey(of: table, key)
            }
        }
        // Options that make no sense are refused by the server.
        guard let dialect else { return .whole([0]) }
        return .split(CopySplitter(dialect, key: key, at: column, buckets: catalog.buckets))
    }

    private static func unknownKey(of table: TableDefinition, _ key: ColumnDefinition) -> TransactionError {
        TransactionError(
            .featureNotSupported, "COPY into \(table.name) must give the shard key \(quotedIdentifier(key.name))",
            detail: "its default is made row by row", hint: "name the column, and give it values")
    }

    /// A shard's own sequence, or its own evaluation of an expression, would give other values than the cluster's.
    private static func checkDefaults(
        of table: TableDefinition, _ columns: [String], onlySequences: Bool
    ) throws(TransactionError) {
        for column in table.columns where !columns.contains(column.name) {
            switch column.defaultKind {
            case .sequence, .identity: break
            case .expression where !onlySequences: break
            case .none, .constant, .computed, .expression: continue
            }
            throw TransactionError(
                .featureNotSupported,
                "COPY into \(table.name) must give column \(quotedIdentifier(column.name))",
                detail: "each shard would make its default by itself", hint: "name the column, and give it values")
        }
    }

    /// What the client is told of the format.
    var format: CopyFormat { copies[places[0]]!.format }

    private mutating func begin(at place: Int) async throws(TransactionError) {
        copies[place] = try await writer.copyIn(text, after: [], on: shards[place])
    }

    // MARK: Data

    /// Takes data, cut anywhere; returns when the shards have taken what they were sent of it.
    mutating func take(_ bytes: some Collection<UInt8> & Sendable) async throws {
        if splitter == nil {
            for place in places { outputs[place].append(contentsOf: bytes) }
        } else {
            splitter!.append(bytes)
            try await split()
        }
        for place in shards.indices where outputs[place].count >= Self.bytesPerWrite {
            try await send(to: place, isLast: false)
        }
    }

    /// The client has ended the data.
    ///
    /// - Returns: how many rows were copied.
    mutating func finish() async throws -> Int {
        splitter?.finish()
        try await split()
        for place in shards.indices where !outputs[place].isEmpty || copies[place] != nil {
            try await send(to: place, isLast: true)
        }
        var rows: [Int] = []
        for place in shards.indices {
            guard let copy = copies[place] else { continue }
            copies[place] = nil
            do throws(TransactionError) { rows.append(try await copy.finish()) } catch { throw told(error) }
        }
        // Of a table that every shard has, each copied all rows.
        return splitter == nil ? rows[0] : rows.reduce(0, +)
    }

    /// The client has given the copy up; returns the error to tell.
    mutating func fail(_ reason: String) async -> TransactionError {
        var first: TransactionError?
        for case let copy? in copies {
            let error = await copy.fail(reason)
            first = first ?? error
        }
        copies = []
        return told(first ?? TransactionError(.queryCanceled, "COPY from stdin failed: \(reason)"))
    }

    private mutating func split() async throws {
        while let stop = try splitter?.split(into: &outputs) {
            switch stop {
            case .unknown(let key):
                let place = try await place(of: key)
                splitter?.decide(place)
            }
        }
    }

    /// The type `text`.
    private static let text: UInt32 = 25

    /// Has a server read a key, as the column would store it.
    private func place(of value: [UInt8]) async throws(TransactionError) -> CopySplitter.Place {
        guard let key, let keyType = key.shardKeyType else { return .none }
        let (parameter, type) =
            isBinary
            ? (SQLParameter.bytes(value), key.type) : (.text(String(decoding: value, as: UTF8.self)), Self.text)
        let result = try await evaluate(
            SQLStatement("SELECT CAST($1 AS \(key.typeName))", [parameter], parameterTypes: [type]))
        let hash = result.withBytes(row: 0, column: 0) { bytes in bytes.flatMap { keyType.hash($0, .binary) } }
        return hash.map { .hash($0) } ?? .none
    }

    private mutating func send(to place: Int, isLast: Bool) async throws(TransactionError) {
        if copies[place] == nil { try await begin(at: place) }
        var bytes: [UInt8] = []
        if let splitter, hasPreamble.insert(place).inserted { bytes = splitter.preamble }
        translations[place]?(&outputs[place])
        bytes += outputs[place]
        outputs[place].removeAll(keepingCapacity: true)
        if isLast, let splitter { bytes += splitter.postamble }
        do throws(TransactionError) { try await copies[place]!.write(bytes) } catch { throw told(error) }
    }

    /// A shard counts the lines that it was sent, which are not the client's when they were split.
    private func told(_ error: TransactionError) -> TransactionError {
        let context = UInt8(ascii: "W")
        guard splitter != nil, let text = error.reportFields[context] else { return error }
        var told = error
        told.reportFields[context] = text.replacing(/, line \d+/, with: "")
        return told
    }
}
