import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// Makes one COPY TO STDOUT of several shards'. Each gives its part with the same options; of what stands around the
/// rows, only the first beginning and one end are kept.
struct CopyOutput: Sendable {
    /// What begins the binary format: signature, flags, the length of an extension that no server writes.
    private static let binaryHeaderBytes = 19
    private static let binaryEnd: [UInt8] = [0xFF, 0xFF]

    private let options: [String: String]
    let isBinary: Bool
    private(set) var rowCount = 0
    /// The next chunk is a shard's first.
    private var isAtBeginning = false
    private var isFirstShard = true
    private var translation: TransactionEngine.RowTranslation?
    /// In binary, what comes with the first row: clients take each message for a row.
    private var header: [UInt8] = []

    init(_ command: CopyCommand) {
        options = command.options
        isBinary = command.options["format"] == "binary"
    }

    // MARK: Statements

    /// The COPY of a query for the shard at that place.
    func copy(_ query: String, at place: Int) -> String {
        var options = options
        // One header is enough. Where it makes no sense, the first shard says so.
        if place > 0 { options["header"] = nil }
        guard !options.isEmpty else { return "COPY (\(query)\n) TO STDOUT" }
        let list = options.sorted { $0.key < $1.key }.map { name, value in
            "\(quotedIdentifier(name)) \(Self.argument(of: name, value))"
        }
        return "COPY (\(query)\n) TO STDOUT WITH (\(list.joined(separator: ", ")))"
    }

    private static func argument(of option: String, _ value: String) -> String {
        guard option.hasPrefix("force_") else { return quotedLiteral(value) }
        if value == "*" { return "*" }
        return "(" + value.split(separator: ",").map { quotedIdentifier(String($0)) }.joined(separator: ", ") + ")"
    }

    /// A query that returns the rows of a result, which are in text.
    func query(over result: StatementResult, names engine: TransactionEngine) async throws(TransactionError) -> String {
        guard !result.fields.isEmpty else {
            throw TransactionError(.featureNotSupported, "COPY query must have a RETURNING clause")
        }
        let types = isBinary ? try await engine.typeNames(of: result.fields.map(\.typeOID)) : []
        let columns = result.fields.enumerated().map { index, field in
            "c\(index + 1)\(isBinary ? "::\(types[index])" : "") AS \(quotedIdentifier(field.name))"
        }
        let arrays = result.fields.indices.map { index in
            quotedLiteral(MergedRead.array(of: index, in: result.parts)) + "::text[]"
        }
        let names = result.fields.indices.map { "c\($0 + 1)" }.joined(separator: ", ")
        return
            "SELECT \(columns.joined(separator: ", ")) FROM unnest(\(arrays.joined(separator: ", "))) AS t (\(names))"
    }

    // MARK: Data

    /// The data of the shard at that place follows.
    mutating func begin(_ place: Int, _ translation: TransactionEngine.RowTranslation? = nil) {
        (isAtBeginning, isFirstShard, self.translation) = (true, place == 0, translation)
    }

    mutating func write(_ batch: CopyOutBatch, to writer: inout BackendWriter) {
        for chunk in 0..<batch.count {
            batch.withBytes(chunk) { bytes in
                guard isBinary else { return writer.copyData(bytes) }
                var rest = bytes[...]
                if isAtBeginning {
                    if isFirstShard { header = Array(rest.prefix(Self.binaryHeaderBytes)) }
                    rest = rest.dropFirst(Self.binaryHeaderBytes)
                    isAtBeginning = false
                }
                guard !rest.isEmpty, !rest.elementsEqual(Self.binaryEnd) else { return }
                guard translation != nil || !header.isEmpty else {
                    return writer.copyData(UnsafeRawBufferPointer(rebasing: rest))
                }
                var row = Array(rest)
                translation?(&row)
                (header + row).withUnsafeBytes { writer.copyData($0) }
                header = []
            }
        }
        if let ending = batch.ending { rowCount += ending.affectedRows }
    }

    /// Writes what ends the data.
    func end(_ writer: inout BackendWriter) {
        guard isBinary else { return }
        (header + Self.binaryEnd).withUnsafeBytes { writer.copyData($0) }
    }
}

/// Where the data of a COPY TO STDOUT comes from: shards all begun, or begun one by one.
struct CopyOutSources: Sendable {
    typealias Begin = @Sendable (ShardID) async throws(TransactionError) -> ShardStream<CopyOutStream>

    private let begun: [ShardStream<CopyOutStream>]
    private let shards: [ShardID]
    private let begin: Begin?

    init(_ begun: [ShardStream<CopyOutStream>]) {
        (self.begun, shards, begin) = (begun, [], nil)
    }

    init(_ shards: [ShardID], begin: @escaping Begin) {
        (begun, self.shards, self.begin) = ([], shards, begin)
    }

    var places: Range<Int> { 0..<max(begun.count, shards.count) }

    func stream(at place: Int) async throws(TransactionError) -> ShardStream<CopyOutStream> {
        if let begin { try await begin(shards[place]) } else { begun[place] }
    }
}

extension ClientTransaction {
    /// Its rows are those of the shards one behind the other, and it changes nothing.
    func canCopyOut(_ statement: BoundStatement) throws(TransactionError) -> Bool {
        guard case .query = statement.plan.statement.kind, !statement.plan.isWrite else { return false }
        return try statement.shards().count == 1 || statement.shardSQL == nil
    }

    /// Begins to copy a query's rows out: at the snapshot, or under locks.
    func copyOut(_ statement: BoundStatement, _ output: CopyOutput) async throws(TransactionError) -> CopyOutSources {
        try checkFunctions(of: statement)
        let shards = try statement.shards()
        let query = statement.plan.statement.text
        if let writer = try await sessions(for: statement) {
            note(statement.catalog, statement.tables)
            try await remember(statement)
            let locks = locking(writer).locksForCopy(of: statement, lasting(statement))
            return CopyOutSources(shards) { shard throws(TransactionError) in
                try await writer.copyOut(
                    output.copy(query, at: shards.firstIndex(of: shard)!), after: locks, on: shard)
            }
        }
        note(statement.catalog, statement.tables)
        try await remember(statement)
        let run = try await snapshotRun()
        return CopyOutSources(
            try await run.copyOut(statement, on: shards) { output.copy($0, at: $1) })
    }

    /// Begins to copy out the rows of a query that reads no table.
    func copyOut(_ query: String, _ output: CopyOutput) async throws(TransactionError) -> ShardStream<CopyOutStream> {
        let shard = engine.shards[0]
        if let writer { return try await writer.copyOut(output.copy(query, at: 0), after: [], on: shard) }
        let statement = ClientStatement(SQLStatement(query), searchPath: settings.searchPath, preparation: preparation)
        return try await currentSnapshot().copiesOut(of: statement, on: [shard]) { output.copy($0, at: $1) }[0]
    }
}
