import ClientAuthentication
import EventLoops
import Gateway
import Logging
import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import Synchronization
import TransactionCore
import TransactionEngine

/// What the sessions of one node share: the engine, the catalog, plans, users. It opens sessions for the gateway.
public actor SessionNode: ClientSessionProvider, LoopActor {
    nonisolated let engine: TransactionEngine
    nonisolated let catalogs: SchemaCatalog
    nonisolated let applied: AppliedSettings
    nonisolated let hub: NotificationHub
    private nonisolated let users: Mutex<[String: PasswordVerifier]>
    private nonisolated let database: String
    /// What the shards report of themselves, and every client is told.
    private nonisolated let serverParameters: [StartupMessage.Parameter]

    /// Longer texts are not kept planned.
    static let plannedTextBytesMax = 16_384

    private var plans = PlanCache<[PlannedStatement]>(capacity: 2_048)
    /// The statements without their literals that came last, and where names led to in them.
    private var shapes = RecentShapes<(planned: PlannedStatement, searchPath: [String])>(capacity: 16)

    /// By process number; a session is taken out when its client is gone.
    private var sessions: [Int32: Conversation] = [:]

    public nonisolated var loop: EventLoop { engine.loop }
    public nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    /// Makes the node's part for clients over an engine that serves.
    ///
    /// - Parameters:
    ///   - database: the name that clients connect to.
    ///   - users: verifiers of passwords by user; who has none can come in by the rule `trust` alone.
    public init(
        _ engine: TransactionEngine, database: String, users: [String: PasswordVerifier] = [:]
    ) async throws {
        self.engine = engine
        self.database = database
        self.users = Mutex(users)
        hub = NotificationHub(engine)
        let catalogs = try await SchemaCatalog(engine)
        self.catalogs = catalogs
        applied = AppliedSettings { catalogs.onLoop { $0.current.version } }
        var parameters: [StartupMessage.Parameter] = []
        for name in [
            "server_version", "server_encoding", "DateStyle", "IntervalStyle", "TimeZone",
            "integer_datetimes", "standard_conforming_strings",
        ] {
            let result = try await engine.inspect(
                SQLStatement("SELECT current_setting($1)", [.text(name)], resultFormat: .text), on: engine.shards[0])
            parameters.append(.init(name, try result[0].text(0)))
        }
        serverParameters = parameters
    }

    // MARK: The gateway's calls

    public nonisolated func verifier(ofUser user: String) -> PasswordVerifier? { users.withLock { $0[user] } }

    /// Knows clients that log in from now on by these verifiers.
    public nonisolated func replaceUsers(_ users: [String: PasswordVerifier]) { self.users.withLock { $0 = users } }

    public func open(
        _ startup: ClientStartup, key: CancelRequest, output: ClientOutput
    ) async throws(TransactionError) -> OpenedSession {
        guard startup.database == database else {
            throw TransactionError(
                .undefinedDatabase, "database \"\(startup.database)\" does not exist",
                hint: "this cluster's database is \"\(database)\"")
        }
        var variables = defaultVariables(startup)
        // A server looks at their values too, with those of all others.
        for (name, value) in variables.limits { variables.settings[name] = value }
        var parameters = serverParameters
        for setting in startup.settings where variables.settings[setting.name.lowercased()] != nil {
            let name = setting.name.lowercased()
            let (applied, settings) = (applied, SessionSettings())
            let result = try await engine.evaluate(
                ClientStatement(
                    SQLStatement(
                        "SELECT set_config($1, $2, true), current_setting($1)", [.text(name), .text(setting.value)],
                        isPrepared: false, resultFormat: .text), searchPath: ["public"],
                    preparation: { applied.statements(bringing: $0, to: settings) }))
            do throws(ShardError) {
                variables.settings[name] = try result[0].text(1)
            } catch {
                throw TransactionError(error, shard: nil)
            }
            if let index = parameters.firstIndex(where: { $0.name.lowercased() == name }) {
                parameters[index].value = variables.settings[name] ?? setting.value
            }
        }
        variables.separateLimits()
        parameters += [
            .init("client_encoding", "UTF8"), .init("application_name", variables.applicationName),
            .init("is_superuser", "off"), .init("session_authorization", startup.user),
            .init("default_transaction_read_only", "off"), .init("in_hot_standby", "off"),
        ]
        let session = Conversation(self, key.processID, startup, output, variables: variables)
        sessions[key.processID] = session
        return OpenedSession(session, parameters: parameters)
    }

    /// A client is gone.
    func closed(_ process: Int32) { sessions[process] = nil }

    var openSessions: [Conversation] { Array(sessions.values) }

    public nonisolated func cancel(_ session: any ClientSession) {
        (session as? Conversation)?.cancel()
    }

    /// The variables of a session that has set nothing yet.
    nonisolated func defaultVariables(_ startup: ClientStartup) -> SessionVariables {
        var variables = SessionVariables()
        for setting in startup.settings {
            let name = setting.name.lowercased()
            if name == "application_name" { variables.applicationName = setting.value }
            if SessionSettings.reserved.contains(name) || name.hasPrefix("meridian.") { continue }
            variables.settings[name] = setting.value
        }
        variables.separateLimits()
        return variables
    }

    // MARK: Plans

    /// The statements of `text`, planned for the schema as the session sees it: `temporary` are its own tables.
    func plan(
        _ text: String, _ searchPath: [String], _ transaction: ClientTransaction?, temporary: [TableDefinition]
    ) async throws -> [PlannedStatement] {
        if let own = await transaction?.ownCatalog {
            return try Self.plan(text, own.adding(temporary: temporary), searchPath)
        }
        let catalog = await catalogs.settled()
        // Plans are kept for what all sessions see alike.
        guard temporary.isEmpty else { return try Self.plan(text, catalog.adding(temporary: temporary), searchPath) }
        let key = PlanCache<[PlannedStatement]>.Key(
            text: text, catalogVersion: catalog.version, searchPath: searchPath)
        if let known = plans.plan(for: key) { return known }
        let planned = try Self.plan(text, catalog, searchPath)
        if text.utf8.count <= Self.plannedTextBytesMax { plans.insert(planned, for: key) }
        return planned
    }

    /// The plan of a text that is one statement, if that is known and would be made the same way now.
    func knownPlan(_ text: String, _ searchPath: [String]) -> PlannedStatement? {
        guard let catalog = catalogs.onLoop({ $0.settledNow }) else { return nil }
        let planned = plans.plan(for: .init(text: text, catalogVersion: catalog.version, searchPath: searchPath))
        return planned?.count == 1 ? planned?[0] : nil
    }

    /// The plan of a text with its literals made parameters, and these, if it is known and would be made the same way
    /// now. Not of long texts, which would have to be compared with several shapes.
    func knownWithoutLiterals(_ text: String, _ searchPath: [String]) -> (planned: PlannedStatement, values: [String])?
    {
        guard text.utf8.count <= Self.plannedTextBytesMax,
            let version = catalogs.onLoop({ $0.settledNow?.version })
        else { return nil }
        let found = shapes.find(text) { $0.planned.catalog.version == version && $0.searchPath == searchPath }
        if let found { return (found.known.planned, found.values) }
        guard let normalized = StatementNormalizer.normalize(text),
            let planned = knownPlan(normalized.text, searchPath)
        else { return nil }
        shapes.insert(StatementShape(of: text, normalized), (planned, searchPath))
        return (planned, normalized.values)
    }

    private static func plan(_ text: String, _ catalog: Catalog, _ searchPath: [String]) throws -> [PlannedStatement] {
        let parsed = try ParsedText(text)
        return try parsed.statements.indices.map { index in
            do throws(StatementError) {
                return PlannedStatement(try parsed.plan(index, in: catalog, searchPath: searchPath), catalog)
            } catch {
                // Of several, those before it are run.
                guard parsed.statements.count > 1 else { throw error }
                let plan = StatementPlan(statement: parsed.statements[index], route: .anyOne)
                return PlannedStatement(plan, catalog, refusal: error)
            }
        }
    }
}
