import ShardBackend

/// What a client has set (SET, startup options) and the shards must know: a value, so that a rollback gives it back.
///
/// Meridian's own settings and those of transactions are not among it: see ``SessionVariables``.
struct SessionSettings: Hashable, Sendable {
    /// Values by lower-case name, as the server shows them.
    private(set) var values: [String: String] = [:]

    /// The settings that belong to Meridian in a pooled session: it gives them itself.
    static let reserved: Set<String> = [
        "default_transaction_isolation", "default_transaction_read_only", "default_transaction_deferrable",
        "synchronous_commit", "session_replication_role", "role", "session_authorization", "client_encoding",
        "application_name", "transaction_isolation", "transaction_read_only", "transaction_deferrable",
    ]

    private static let defaultSearchPath = ["public"]

    subscript(name: String) -> String? {
        get { values[name] }
        set { values[name] = newValue }
    }

    /// What a pooled session that has `other` must be told to have these settings instead.
    func statements(from other: SessionSettings) -> [SQLStatement] {
        guard self != other else { return [] }
        var statements = other.values.keys.filter { values[$0] == nil }.sorted().map { name in
            SQLStatement("RESET \(Self.quoted(name))", isPrepared: false)
        }
        let changed = values.filter { other.values[$0.key] != $0.value }.sorted { $0.key < $1.key }
        if !changed.isEmpty {
            let calls = changed.indices.map { "set_config($\($0 * 2 + 1), $\($0 * 2 + 2), false)" }
            statements.append(
                SQLStatement(
                    "SELECT " + calls.joined(separator: ", "), changed.flatMap { [.text($0.key), .text($0.value)] }))
        }
        return statements
    }

    /// Tells prepared statements apart that were parsed under other settings: the server reads literals such as dates
    /// by them. 0 without any.
    var fingerprint: UInt64 { values.isEmpty ? 0 : UInt64(bitPattern: Int64(hashValue)) }

    /// The schemas of `search_path`, in which `$user` is nobody's: clients share the shards' role.
    var searchPath: [String] {
        guard let path = values["search_path"] else { return Self.defaultSearchPath }
        return Self.names(in: path).filter { $0 != "$user" }
    }

    /// A setting's name with its dots, each part quoted.
    static func quoted(_ name: String) -> String {
        name.split(separator: ".", omittingEmptySubsequences: false)
            .map { "\"\($0.replacing("\"", with: "\"\""))\"" }.joined(separator: ".")
    }

    /// The names in a list such as `"$user", public`.
    static func names(in list: String) -> [String] {
        var names: [String] = []
        var name = ""
        var isQuoted = false
        var characters = list.makeIterator()
        var pending = characters.next()
        while let character = pending {
            pending = characters.next()
            switch character {
            case "\"" where isQuoted && pending == "\"":
                name.append("\"")
                pending = characters.next()
            case "\"": isQuoted.toggle()
            case "," where !isQuoted:
                names.append(name)
                name = ""
            case " " where !isQuoted: break
            default: name.append(isQuoted ? String(character) : character.lowercased())
            }
        }
        return (names + [name]).filter { !$0.isEmpty }
    }
}

/// Which settings each pooled session has been told. Confined to the event loop of the sessions.
final class AppliedSettings: @unchecked Sendable {
    private var settings: [ObjectIdentifier: (connection: WeakConnection, settings: SessionSettings)] = [:]
    private let schemaVersion: @Sendable () -> UInt64
    private var ownSchemas: UInt64 = 0

    /// - Parameter schemaVersion: the version of the catalog of the moment; called on the loop.
    init(schemaVersion: @escaping @Sendable () -> UInt64) {
        self.schemaVersion = schemaVersion
    }

    /// Tells prepared statements apart that the server would read differently: it looks at settings when it parses, and
    /// what it has parsed and described holds for one schema.
    func fingerprint(of settings: SessionSettings) -> UInt64 {
        settings.fingerprint &+ schemaVersion() &* 0x9E37_79B9_7F4A_7C15
    }

    /// The same for a transaction that has changed the schema and not committed that: none like it before or after.
    func fingerprintOfOwnSchema() -> UInt64 {
        ownSchemas += 1
        return ~ownSchemas
    }

    private struct WeakConnection {
        weak var value: ShardConnection?
    }

    /// What brings `connection` to `wanted`; it counts as told. A session that fails on the way is closed by its pool,
    /// since it is left in a transaction, or was told nothing.
    func statements(bringing connection: ShardConnection, to wanted: SessionSettings) -> [SQLStatement] {
        let id = ObjectIdentifier(connection)
        let known = settings[id].flatMap { $0.connection.value === connection ? $0.settings : nil } ?? SessionSettings()
        let statements = wanted.statements(from: known)
        connection.onLoop { $0.setAppliedSettings(fingerprint(of: wanted)) }
        guard !statements.isEmpty else { return [] }
        settings[id] = (WeakConnection(value: connection), wanted)
        if settings.count > 4096 { settings = settings.filter { $0.value.connection.value != nil } }
        return statements
    }
}
