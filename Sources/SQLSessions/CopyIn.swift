import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// Takes the rows of one COPY FROM STDIN to their shards, in the client's transaction.
///
/// For a sharded table the data is split by rows; another one's goes as it is to the shard that has it, or to all.
///
/// Where the rows' keys can be read here, the undo log is told of them by this and not by a trigger for each row, which
/// costs several times what the row itself does (`meridian.begin_copy`). A shard's session is busy with its COPY, so
/// the keys are kept until that ends; when there are many, it is ended and another one begun.
struct CopyIn: Sendable {
    typealias Evaluate = @Sendable (SQLStatement) async throws(TransactionError) -> SQLResult

    /// Where the data goes.
    private enum Destination {
        /// By the values of a column, the shard key.
        case split(ColumnDefinition, at: Int)
        /// Places among the shards.
        case whole([Int])
    }

    /// So much is gathered for a shard before it is sent.
    private static let bytesPerWrite = 65_536
    /// So many bytes of keys, some 100,000 of them, are kept for a shard.
    private static let keyBytesMax = 1 << 20

    private let writer: ReadWriteTransaction
    private let text: String
    private let shards: [ShardID]
    private let key: ColumnDefinition?
    private let table: TableName
    private let primaryKey: [String]
    private let isBinary: Bool
    private let evaluate: Evaluate
    /// Nil when all data goes to ``places`` as it is.
    private var splitter: CopySplitter?
    private let places: [Int]
    /// The rows go to several shards.
    private let isSplit: Bool
    /// By the shard's place: its COPY, once it has begun, what it is to be sent, and how many rows those before it had.
    private var copies: [ShardCopy?]
    private var parts: [CopyPart]
    private var rowCounts: [Int]
    /// By the shard's place: what adds entries to its undo log. A shard that is not here does that by itself.
    private var undo: [Int: String] = [:]
    /// The shards may be asked to leave their undo logs to this.
    private var keepsUndo: Bool
    /// The shards whose COPY has been sent the preamble.
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
        (self.table, primaryKey) = (table.name, table.primaryKey)
        shards = catalog.buckets.shards
        key = table.shardKey
        let dialect = CopyDialect(command.options)
        isBinary = dialect?.format == .binary
        let destination = try Self.destination(dialect, table, columns, catalog)
        switch destination {
        case .split: (isSplit, places) = (true, [0])
        case .whole(let places): (isSplit, self.places) = (false, places)
        }
        keepsUndo = Self.canKeepUndo(of: table, command, dialect, columns)
        (copies, translations) = (shards.map { _ in nil }, shards.map { _ in nil })
        rowCounts = shards.map { _ in 0 }
        parts = shards.map { _ in CopyPart(keyColumns: table.primaryKey.count) }
        for place in places { try await begin(at: place) }
        if let dialect {
            let noted = undo.isEmpty ? [] : primaryKey.map { (name: $0, place: columns.firstIndex(of: $0)!) }
            switch destination {
            case .split(let key, let column):
                splitter = CopySplitter(dialect, key: key, at: column, buckets: catalog.buckets, noting: noted)
            case .whole(let places) where !noted.isEmpty:
                splitter = CopySplitter(dialect, to: places[0], noting: noted)
            case .whole: break
            }
        }
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
        return dialect == nil ? .whole([0]) : .split(key, at: column)
    }

    /// The options that leave every row one of the table, and its key one of the data.
    private static let plainOptions: Set<String> = [
        "format", "delimiter", "null", "header", "quote", "escape", "force_not_null", "force_null", "encoding",
        "freeze",
    ]

    /// Whether the key of each row that is stored can be read from the data, and no other row is in it: keys in binary
    /// are not what a literal of an array takes, and defaults are made by the shard. The shard knows the rest.
    private static func canKeepUndo(
        of table: TableDefinition, _ command: CopyCommand, _ dialect: CopyDialect?, _ columns: [String]
    ) -> Bool {
        guard let dialect, dialect.format != .binary else { return false }
        return table.isVersioned && !table.primaryKey.isEmpty && table.primaryKey.allSatisfy(columns.contains)
            && !command.hasFilter && plainOptions.isSuperset(of: command.options.keys)
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
        if keepsUndo, rowCounts[place] == 0 { undo[place] = try await undoStatement(at: place) }
        copies[place] = try await writer.copyIn(
            text, after: [], on: shards[place], isWrite: !table.isTemporary)
    }

    /// Asks a shard to leave its undo log to this.
    private mutating func undoStatement(at place: Int) async throws(TransactionError) -> String? {
        let names = CopyKeys.literal(of: primaryKey)
        let answer = try await writer.execute(
            SQLStatement("SELECT meridian.begin_copy($1::text::regclass, $2)", [.text("\(table)"), .text(names)]),
            on: shards[place])
        do throws(ShardError) {
            keepsUndo = try !answer[0].isNull(0)
            return keepsUndo ? try answer[0].text(0) : nil
        } catch {
            throw TransactionError(error, shard: shards[place])
        }
    }

    /// Ends the COPY of a shard, and has its undo log told of the rows.
    private mutating func end(at place: Int, isLast: Bool) async throws(TransactionError) {
        if let copy = copies[place] {
            copies[place] = nil
            hasPreamble.remove(place)
            do throws(TransactionError) { rowCounts[place] += try await copy.finish() } catch { throw told(error) }
        }
        guard let entry = undo[place] else { return }
        var statements = parts[place].keys.take().map { literals in SQLStatement(entry, literals.map { .text($0) }) }
        if isLast { statements.append("SELECT meridian.end_copy()") }
        if !statements.isEmpty { _ = try await writer.execute(statements, on: shards[place]) }
    }

    // MARK: Data

    /// Takes data, cut anywhere; returns when the shards have taken what they were sent of it.
    mutating func take(_ bytes: some Collection<UInt8> & Sendable) async throws {
        if splitter == nil {
            for place in places { parts[place].bytes.append(contentsOf: bytes) }
        } else {
            splitter!.append(bytes)
            try await split()
        }
        for place in shards.indices where parts[place].bytes.count >= Self.bytesPerWrite {
            try await send(to: place, isLast: false)
        }
        for place in undo.keys where parts[place].keys.byteCount >= Self.keyBytesMax {
            try await send(to: place, isLast: true)
            try await end(at: place, isLast: false)
        }
    }

    /// The client has ended the data.
    ///
    /// - Returns: how many rows were copied.
    mutating func finish() async throws -> Int {
        splitter?.finish()
        try await split()
        for place in shards.indices where !parts[place].bytes.isEmpty || copies[place] != nil {
            try await send(to: place, isLast: true)
        }
        for place in shards.indices { try await end(at: place, isLast: true) }
        // Of a table that every shard has, each copied all rows.
        return places.count > 1 ? rowCounts[0] : rowCounts.reduce(0, +)
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
        while let stop = try splitter?.split(into: &parts) {
            switch stop {
            case .unknown(let key):
                let place = try await place(of: key)
                splitter?.decide(place)
            }
        }
        // Shards that have the same rows have had as much of them so far.
        for place in places.dropFirst() { parts[place] = parts[places[0]] }
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
        translations[place]?(&parts[place].bytes)
        bytes += parts[place].bytes
        parts[place].bytes.removeAll(keepingCapacity: true)
        if isLast, let splitter { bytes += splitter.postamble }
        do throws(TransactionError) { try await copies[place]!.write(bytes) } catch { throw told(error) }
    }

    /// A shard counts the lines that it was sent, which are not the client's when they were split or sent in several
    /// COPYs.
    private func told(_ error: TransactionError) -> TransactionError {
        let context = UInt8(ascii: "W")
        guard isSplit || rowCounts.contains(where: { $0 > 0 }), let text = error.reportFields[context] else {
            return error
        }
        var told = error
        told.reportFields[context] = text.replacing(/, line \d+/, with: "")
        return told
    }
}
