import ShardBackend
import SystemClock
import TransactionCore
import TransactionEngine

/// What a node needs to know: its shards and how to treat them. `ops/meridian.example.yaml` explains every key.
struct ClusterConfiguration: Sendable {
    /// The node's number, its shards, limits and timeouts; the defaults are the engine's.
    var engine: EngineConfiguration
    /// Who vouches for the clock.
    var clock = ClockSource.host(uncertainty: ClockSource.uncertaintyDefault)
    /// How far back reads may go.
    var retention = Duration.seconds(3600)
    /// How clients reach the node.
    var gateway = GatewaySettings()
    /// How it forms a cluster with other nodes; nil for one that is alone.
    var replication: ReplicationSettings?
    /// Nil: no admin interface.
    var admin: AdminSettings?

    /// ``retention`` in whole seconds, rounded up, as the shards keep it.
    var retentionSeconds: Int64 {
        let (seconds, attoseconds) = retention.components
        return attoseconds > 0 ? seconds + 1 : seconds
    }

    init(shards: [ShardConfiguration]) {
        engine = EngineConfiguration(node: NodeID(rawValue: 1)!, shards: shards)
    }
}

/// A configuration that is refused, before anything was touched.
struct ConfigurationError: ReportedError, Equatable {
    var message: String
    var detail: String?
    var hint: String?

    init(_ message: String, detail: String? = nil, hint: String? = nil) {
        self.message = message
        self.detail = detail
        self.hint = hint
    }
}

extension ShardConfiguration {
    /// Reads `NAME CONNINFO`, the argument of `--shard`.
    init(argument: String) throws {
        let parts = argument.split(maxSplits: 1, whereSeparator: \.isWhitespace)
        guard parts.count == 2 else {
            throw ConfigurationError(
                "\"\(argument)\" is not a shard",
                detail: "a shard is a name, a space and how libpq reaches it",
                hint: "write it like 'shard1 host=127.0.0.1 port=5432 dbname=meridian user=meridian'"
            )
        }
        guard let id = ShardID(String(parts[0])) else {
            throw ConfigurationError("\"\(parts[0])\" is not a name of a shard", detail: Self.nameExplanation)
        }
        self.init(id: id, conninfo: String(parts[1]))
    }

    static let nameExplanation =
        "a name is a lower-case letter, then up to \(ShardID.lengthMax - 1) lower-case letters, digits or underscores"

    /// Throws when there is no shard, when two have one name or one server and database, or when libpq does not
    /// understand a conninfo. That two names mean one server all the same is for `check-config` to find, which asks.
    static func check(_ shards: [Self]) throws {
        guard !shards.isEmpty else {
            throw ConfigurationError("there is no shard", hint: "name at least one shard with its conninfo")
        }
        let places = try shards.map { try $0.place }
        for (index, shard) in shards.enumerated() {
            for (earlier, place) in zip(shards[..<index], places) {
                guard earlier.id != shard.id else {
                    throw ConfigurationError("two shards are named \"\(shard.id)\"", hint: "give each its own name")
                }
                guard place != places[index] else {
                    throw ConfigurationError(
                        "shards \"\(earlier.id)\" and \"\(shard.id)\" are in the same place",
                        hint: "give each its own server"
                    )
                }
            }
        }
    }

    /// The server and the database, as far as the conninfo tells.
    private var place: [String?] {
        get throws {
            do {
                let settings = try ConnectionSettings(conninfo)
                return ["service", "host", "hostaddr", "port", "dbname"].map { settings[$0] }
            } catch {
                throw ConfigurationError("shard \"\(id)\" can't be reached: \(error.message)")
            }
        }
    }
}
