import SystemClock
import TransactionCore

/// What a node needs to know: its shards and how to treat them. `ops/meridian.example.yaml` explains every key.
struct ClusterConfiguration: Equatable, Sendable {
    /// One shard.
    struct Shard: Equatable, Sendable {
        /// Its name, which stays the same when it moves to another server.
        var name: ShardID
        /// How libpq reaches its primary.
        var conninfo: String
    }

    /// The connections that a node holds to each shard.
    struct Pool: Equatable, Sendable {
        /// At most so many to each shard.
        var connections = 32
        /// How long a transaction waits for one before it is refused.
        var wait = Duration.seconds(5)
    }

    /// How long a node waits for a shard.
    struct Timeouts: Equatable, Sendable {
        /// For a connection.
        var connect = Duration.seconds(5)
        /// For the answer to one request.
        var request = Duration.seconds(30)
    }

    /// This node's number, which no other node that runs at the same time may have.
    var node = NodeID(rawValue: 1)!
    /// The shards, in the order given.
    var shards: [Shard]
    /// Who vouches for the clock.
    var clock = ClockSource.host(uncertainty: ClockSource.uncertaintyDefault)
    /// How far back reads may go.
    var retention = Duration.seconds(3600)
    var pool = Pool()
    var timeouts = Timeouts()
}

/// A configuration that is refused, before anything was touched.
struct ConfigurationError: Error, Equatable, CustomStringConvertible {
    var message: String
    var detail: String?
    var hint: String?

    init(_ message: String, detail: String? = nil, hint: String? = nil) {
        self.message = message
        self.detail = detail
        self.hint = hint
    }

    /// psql's layout without the severity.
    var description: String {
        var lines = [message]
        if let detail { lines.append("DETAIL:  \(detail)") }
        if let hint { lines.append("HINT:  \(hint)") }
        return lines.joined(separator: "\n")
    }
}

extension ClusterConfiguration.Shard {
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
        guard let name = ShardID(String(parts[0])) else {
            throw ConfigurationError("\"\(parts[0])\" is not a name of a shard", detail: Self.nameExplanation)
        }
        self.init(name: name, conninfo: String(parts[1]))
    }

    static let nameExplanation =
        "a name is a lower-case letter, then up to \(ShardID.lengthMax - 1) lower-case letters, digits or underscores"

    /// What the shard's conninfo is compared by: its words in alphabetical order. That two names mean one server all the
    /// same is for `check-config` to find, which asks the servers.
    private var conninfoWords: [Substring] { conninfo.split(whereSeparator: \.isWhitespace).sorted() }

    /// Throws when two shards have one name or one conninfo, or there is none.
    static func check(_ shards: [Self]) throws {
        guard !shards.isEmpty else {
            throw ConfigurationError("there is no shard", hint: "name at least one shard with its conninfo")
        }
        for (index, shard) in shards.enumerated() {
            for earlier in shards[..<index] {
                guard earlier.name != shard.name else {
                    throw ConfigurationError("two shards are named \"\(shard.name)\"", hint: "give each its own name")
                }
                guard earlier.conninfoWords != shard.conninfoWords else {
                    throw ConfigurationError(
                        "shards \"\(earlier.name)\" and \"\(shard.name)\" have the same conninfo",
                        hint: "give each its own server"
                    )
                }
            }
        }
    }
}
