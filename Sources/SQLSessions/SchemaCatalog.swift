import EventLoops
import Foundation
import Placement
import ShardBackend
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

/// The catalog that statements are planned by, and its changes. Confined to the engine's event loop.
///
/// A statement that was planned before a change of the schema and runs after it could go to the wrong shard. So a
/// transaction remembers the versions it planned by, and commits only if they are still the newest or the tables it
/// used are as they were (``isCurrent(_:tables:)``); while a change commits, here or on another node, nothing is
/// planned (`CatalogHolds`).
actor SchemaCatalog: LoopActor {
    private let engine: TransactionEngine
    private(set) var current: Catalog
    /// A change is committing, of this node.
    private var isCommitting = false
    /// Reads the catalog anew, and once more when that is wanted meanwhile.
    private var reloading: Task<Void, Never>?
    private var needsReload = false
    /// That everybody holds for the change that is to be committed.
    private var mayChange = false
    private var holds: CatalogHolds
    /// The end of what is held for will not be heard: what is planned now must not count.
    private var isOver = false
    private var waiters: [UnsafeContinuation<Void, Never>] = []

    nonisolated var loop: EventLoop { engine.loop }
    nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    /// How long all other nodes have to hold.
    private static let holdTimeout = Duration.seconds(10)

    /// Reads the catalog, and gives a new cluster its map of buckets.
    init(_ engine: TransactionEngine) async throws {
        self.engine = engine
        holds = CatalogHolds(peers: [])
        var document = try await CatalogDocument.read(from: engine)
        if document.buckets == nil {
            try await Self.storeBuckets(of: engine)
            document = try await CatalogDocument.read(from: engine)
        }
        current = try document.catalog(version: 1)
        listenToPeers()
    }

    /// Plans nothing until all peers have said that they change nothing. Whoever comes later asks before it does.
    private func listenToPeers() {
        let peers = engine.onLoop { engine in
            engine.hear(self)
            return engine.peerIncarnations
        }
        holds = CatalogHolds(peers: peers)
        perform(holds.ticked())
    }

    /// Nothing is to be planned.
    private var isChanging: Bool { !isOver && (isCommitting || reloading != nil || holds.isHeld) }

    /// The newest catalog, once no change is committing.
    func settled() async -> Catalog {
        // Ended by the commit of the change, which its own deadlines bound, or by the end of a node: this or that one.
        while isChanging { await withUnsafeContinuation { waiters.append($0) } }
        return current
    }

    private func wakeWaiters() {
        let resumed = waiters
        waiters = []
        for waiter in resumed { waiter.resume() }
    }

    /// The newest catalog; nil while a change is committing.
    var settledNow: Catalog? { isChanging ? nil : current }

    /// Commits a transaction that has changed the schema and holds the locks for it, and reads the catalog anew.
    func commitChange(of writer: ReadWriteTransaction) async throws(TransactionError) -> Timestamp {
        while isCommitting || reloading != nil { await withUnsafeContinuation { waiters.append($0) } }
        isCommitting = true
        let outcome: Result<Timestamp, TransactionError>
        do throws(TransactionError) {
            try await haveOthersHold(before: writer)
            let timestamp = try await writer.commit()
            outcome = .success(timestamp)
            // A shard that does not get there in time says so itself to those who ask for the tables.
            try? await engine.reach(timestamp)
        } catch {
            outcome = .failure(error)
        }
        // Also after a failure, whose outcome may be unknown.
        await startReload().value
        // Whoever appears and asks in between would be told that nothing is under way, so there is no in between.
        perform(holds.endChange(among: engine.onLoop { $0.peerIncarnations }))
        isCommitting = false
        wakeWaiters()
        return try outcome.get()
    }

    /// Waits until no other node plans anything.
    private func haveOthersHold(before writer: ReadWriteTransaction) async throws(TransactionError) {
        mayChange = false
        perform(holds.beginChange(among: engine.onLoop { $0.peerIncarnations }))
        let deadline = ContinuousClock.now + Self.holdTimeout
        while !mayChange {
            guard ContinuousClock.now < deadline, (try? await loop.sleep(for: .milliseconds(1))) != nil else {
                await writer.rollback()
                throw TransactionError(
                    .lockNotAvailable, "the schema was not changed: other nodes did not answer",
                    detail: holds.unanswering.map(\.description).joined(separator: "; "),
                    hint: "try again when they are reachable or gone")
            }
        }
    }

    /// What reads the catalog, one JSON document.
    static let query = SQLStatement("SELECT meridian.catalog()::text")

    /// The catalog that ``query`` returned.
    nonisolated func catalog(from result: SQLResult, version: UInt64) throws(TransactionError) -> Catalog {
        do {
            return try CatalogDocument(result).catalog(version: version)
        } catch let error as TransactionError {
            throw error
        } catch {
            throw TransactionError(.internalError, "the catalog of a shard can't be read", detail: "\(error)")
        }
    }

    /// Whether `tables` are as they were in `catalog`, once no change is committing.
    func isCurrent(_ catalog: Catalog, tables: Set<TableName>) async -> Bool {
        while isChanging { await withUnsafeContinuation { waiters.append($0) } }
        guard !isOver else { return false }
        return catalog.version == current.version
            || tables.allSatisfy { catalog.tables[$0] == current.tables[$0] } && catalog.buckets == current.buckets
    }

    func isNewest(_ catalog: Catalog) -> Bool { catalog.version == current.version && !isChanging && !isOver }

    /// Whether the rows of `tables` are where they were by `catalog`: what was read by that was not read elsewhere's.
    func stillPlaces(_ tables: Set<TableName>, as catalog: Catalog) async -> Bool {
        if isNewest(catalog) || (catalog.version == .max && !isChanging) { return true }
        let newest = await settled()
        guard !isOver else { return false }
        return catalog.buckets == newest.buckets
            && tables.allSatisfy { name in
                // A table that is gone could be read as long as it was there.
                newest.tables[name].map { $0.distribution == catalog.tables[name]?.distribution } ?? true
            }
    }

    /// One at a time, so that what was read last is what is kept.
    private func startReload() -> Task<Void, Never> {
        needsReload = true
        if let reloading { return reloading }
        let task = Task(executorPreference: loop) { await self.reloadWhileNeeded() }
        reloading = task
        return task
    }

    private func reloadWhileNeeded() async {
        while needsReload { await reload() }
        reloading = nil
        wakeWaiters()
    }

    /// Nothing is planned until it is read: the former one may be wrong.
    private func reload() async {
        needsReload = false
        await engine.forgetNumbers()
        while await !engine.isStopped {
            do {
                current = try await CatalogDocument.read(from: engine).catalog(version: current.version + 1)
                return
            } catch {
                try? await loop.sleep(for: .milliseconds(50))
            }
        }
    }

    private static func storeBuckets(of engine: TransactionEngine) async throws {
        let map = BucketMap(shards: engine.shards)
        let owners = "{" + map.owners.map(String.init).joined(separator: ",") + "}"
        let shards = "{" + map.shards.map(\.rawValue).joined(separator: ",") + "}"
        let statement = SQLStatement(
            """
            INSERT INTO meridian.bucket_map (version, shards, owners) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING
            """, [.int64(Int64(map.version)), .text(shards), .text(owners)], isPrepared: false)
        _ = try await engine.transaction { transaction in
            for shard in engine.shards { _ = try await transaction.execute(statement, on: shard) }
        }
    }
}

// MARK: Changes on other nodes

extension SchemaCatalog: CatalogPeer {
    nonisolated var unanswering: [Incarnation] { onLoop { $0.holds.unanswering } }

    nonisolated func received(_ message: CatalogHolds.Message, from peer: Incarnation) {
        onLoop { $0.perform($0.holds.received(message, from: peer)) }
    }

    nonisolated func fenced(_ peer: Incarnation) { onLoop { $0.perform($0.holds.fenced(peer)) } }

    nonisolated func ticked() { onLoop { $0.perform($0.holds.ticked()) } }

    nonisolated func stopped() {
        onLoop { catalog in
            catalog.isOver = true
            catalog.wakeWaiters()
        }
    }

    private func perform(_ actions: [CatalogHolds.Action]) {
        for action in actions {
            switch action {
            case .send(let message, let peer): engine.onLoop { $0.tell(message, to: peer) }
            case .mayChange: mayChange = true
            case .reload: _ = startReload()
            }
        }
    }
}

/// What `meridian.catalog()` returns.
private struct CatalogDocument: Decodable {
    struct Table: Decodable {
        var schema: String
        var name: String
        var kind: String
        var shard: String?
        var colocation: String?
        var key: String?
        var versioned: Bool
        var primaryKey: [String]
        var unique: [[String]]
        var columns: [Column]
    }

    struct Column: Decodable {
        var name: String
        var type: UInt32
        var typeName: String
        var notNull: Bool
        var identity: String?
        var generated: Bool
        var sequence: String?
        var `default`: String?
    }

    struct View: Decodable {
        var schema: String
        var name: String
    }

    struct Buckets: Decodable {
        var version: UInt64
        var shards: [String]
        var owners: [UInt16]
    }

    var tables: [Table]
    var views: [View]
    var functions: [String: String]
    var buckets: Buckets?

    /// Reads it from the first shard: the schemas of all shards are alike.
    static func read(from engine: TransactionEngine) async throws -> CatalogDocument {
        try CatalogDocument(try await engine.inspect(SchemaCatalog.query, on: engine.shards[0]))
    }

    init(_ result: SQLResult) throws {
        self = try JSONDecoder().decode(CatalogDocument.self, from: Data(try result[0].text(0).utf8))
    }

    func catalog(version: UInt64) throws -> Catalog {
        guard let buckets,
            let map = BucketMap(
                storedShards: buckets.shards.compactMap { ShardID($0) }, owners: buckets.owners,
                version: buckets.version)
        else {
            throw TransactionError(
                .internalError, "the map of buckets on the shards makes no sense",
                hint: "compare meridian.bucket_map of all shards")
        }
        return Catalog(
            version: version, tables: tables.compactMap { $0.definition },
            views: Set(views.map { TableName(schema: $0.schema, $0.name) }),
            functions: functions.mapValues { FunctionTrait(catalogWord: $0) }, buckets: map)
    }
}

extension CatalogDocument.Table {
    var definition: TableDefinition? {
        let distribution: Distribution
        switch kind {
        case "sharded":
            guard let key, let colocation else { return nil }
            distribution = .sharded(key: key, group: colocation)
        case "single":
            guard let shard = shard.flatMap({ ShardID($0) }) else { return nil }
            distribution = .single(shard)
        default: distribution = .reference
        }
        return TableDefinition(
            TableName(schema: schema, name), columns: columns.map { $0.definition }, primaryKey: primaryKey,
            uniqueConstraints: unique, distribution: distribution, isVersioned: versioned)
    }
}

extension CatalogDocument.Column {
    var definition: ColumnDefinition {
        ColumnDefinition(name, type: type, typeName: typeName, isNotNull: notNull, defaultKind: defaultKind)
    }

    private var defaultKind: DefaultKind {
        if generated { return .computed }
        if let sequence = sequence.map({ SessionSettings.names(in: $0.replacing(".", with: ",")) }), sequence.count == 2
        {
            let name = TableName(schema: sequence[0], sequence[1])
            if let identity { return .identity(name, always: identity == "a") }
            if self.default?.hasPrefix("nextval(") == true { return .sequence(name) }
        }
        guard let text = self.default else { return .none }
        // A bare literal, with its cast, is the same everywhere; of anything else that can't be told.
        let isLiteral =
            text.allSatisfy { $0.isNumber || $0 == "." || $0 == "-" } || ["true", "false"].contains(text)
            || text.wholeMatch(of: /'[^'\\]*'::[a-z ]+/) != nil
        return isLiteral && !text.contains("now") ? .constant(text) : .expression(text)
    }
}

extension FunctionTrait {
    /// `word` is a letter for sorting, a blank and the trait's name, as the schema's function writes it.
    fileprivate init(catalogWord word: String) {
        switch word.dropFirst(2) {
        case "aggregate": self = .aggregate
        case "window": self = .window
        case "setReturning": self = .setReturning
        case "volatile": self = .volatile
        case "stable": self = .stable
        case "immutable": self = .immutable
        default: self = .unknown
        }
    }
}
