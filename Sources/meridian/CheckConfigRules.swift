import Foundation
import LocalCluster
import ShardBackend
import TransactionCore

/// What makes a shard unfit, or slow, or unsafe. Pure: facts in, findings out.
struct ConfigurationRules {
    /// A difference of clocks that is worth a word: a shard's own clock decides nothing in Meridian, but a second of
    /// difference shows that one of the machines has no time daemon.
    private static let clockOffsetMaxNanoseconds: Int64 = 1_000_000_000

    let configuration: ClusterConfiguration

    /// Everything about one shard, worst first.
    func findings(on shard: ShardID, _ facts: ShardFacts) -> [Finding] {
        let name = shard.rawValue
        let all =
            [version(name, facts), standby(name, facts), preparedTransactions(name, facts), rights(name, facts)]
            + [schema(name, facts.schema)]
            + [connections(name, facts), sessions(name, facts), idleTimeout(name, facts), clock(name, facts)]
            + [failover(name, facts)] + durability(name, facts)
        return all.compactMap(\.self).sorted { $0.severity > $1.severity }
    }

    /// A shard that gave no answer.
    func unreachable(_ shard: ShardID, _ error: ShardError) -> Finding {
        let message = error.message.replacingOccurrences(of: "\n", with: " ")
        return Finding(
            .refused, shard.rawValue, message,
            hint: "start the server, or correct the shard's conninfo; \"psql\" takes the same one"
        )
    }

    /// Shards that share a server. A transaction has one name on all its shards, and a server takes each name once.
    func sharedServers(_ shards: [(name: ShardID, facts: ShardFacts)]) -> [Finding] {
        Dictionary(grouping: shards) { $0.facts.answers["server"] ?? $0.name.rawValue }.values
            .filter { $0.count > 1 }
            .map { group in
                let names = group.map(\.name.rawValue).sorted().joined(separator: ", ")
                let isOneDatabase = Set(group.map { $0.facts.answers["database"] }).count == 1
                return Finding(
                    .refused, names,
                    isOneDatabase
                        ? "these shards are one and the same database"
                        : "these shards are on one server, which can't prepare a transaction of both",
                    hint: "give each shard its own server"
                )
            }
            .sorted { $0.subject < $1.subject }
    }

    /// Shards that say they belong to different clusters.
    func clusters(_ shards: [(name: ShardID, facts: ShardFacts)]) -> [Finding] {
        let clusters = shards.compactMap { shard -> (name: ShardID, cluster: String)? in
            guard case .current(_, let cluster?, _) = shard.facts.schema else { return nil }
            return (shard.name, cluster)
        }
        let groups = Dictionary(grouping: clusters, by: \.cluster).values.map { $0.map(\.name.rawValue).sorted() }
        guard groups.count > 1 else { return [] }
        return groups.sorted { $0[0] < $1[0] }.map { names in
            Finding(
                .refused, names.joined(separator: ", "), "of another cluster than the rest",
                hint: "correct the conninfo: a shard belongs to one cluster for good"
            )
        }
    }

    private func version(_ shard: String, _ facts: ShardFacts) -> Finding {
        let version = facts.answers["server_version"] ?? "of unknown version"
        let who = "\(facts.answers["user"] ?? "?") in database \(facts.answers["database"] ?? "?")"
        if facts.number("server_version_num") / 10_000 >= PostgresInstallation.majorVersionMin {
            return Finding(.ok, shard, "PostgreSQL \(version), as \(who)")
        }
        return Finding(
            .refused, shard, "PostgreSQL \(version) is too old",
            hint: "upgrade the server to PostgreSQL \(PostgresInstallation.majorVersionMin) or newer"
        )
    }

    private func standby(_ shard: String, _ facts: ShardFacts) -> Finding? {
        if facts.isOn("is_standby") {
            return Finding(
                .refused, shard, "this server is a standby",
                hint: "name the primary, or all of the shard's servers (host=db1a,db1b), in the conninfo"
            )
        }
        guard facts.isOn("default_transaction_read_only") else { return nil }
        return Finding(
            .refused, shard, "transactions are read-only by default",
            hint: "set default_transaction_read_only = off for this role, database and server"
        )
    }

    private func preparedTransactions(_ shard: String, _ facts: ShardFacts) -> Finding? {
        let limit = facts.number("max_prepared_transactions")
        let wanted = configuration.engine.writersMax * nodeCount
        let change =
            "set max_prepared_transactions = \(max(wanted, facts.number("max_connections"))) and restart the server"
        if limit == 0 {
            return Finding(
                .refused, shard, "max_prepared_transactions is 0: no transaction can span this shard and another",
                hint: change
            )
        }
        guard limit < wanted else { return nil }
        return Finding(
            .warning, shard, "max_prepared_transactions is \(limit), below the \(wanted) writers of \(pools)",
            hint: change
        )
    }

    private func rights(_ shard: String, _ facts: ShardFacts) -> Finding? {
        let role = facts.answers["user"] ?? "the role"
        let database = facts.answers["database"] ?? "the database"
        switch facts.answers["schema"] {
        case "missing":
            return Finding(
                .refused, shard, "\(role) may not make the schema meridian",
                hint: "GRANT CREATE ON DATABASE \(database) TO \(role)"
            )
        case "closed":
            return Finding(
                .refused, shard, "\(role) may not use and make tables in the schema meridian",
                hint: "connect as its owner, or GRANT USAGE, CREATE ON SCHEMA meridian TO \(role)"
            )
        default:
            return nil
        }
    }

    private func schema(_ shard: String, _ facts: SchemaFacts) -> Finding {
        switch facts {
        case .pending(let names):
            return Finding(.warning, shard, "lacks \(names.joined(separator: ", "))", hint: "run \"meridian migrate\"")
        case .unusable(let message, let hint):
            return Finding(.refused, shard, message, hint: hint)
        case .current(let known, _, let seconds):
            if let known, known != shard {
                return Finding(
                    .refused, shard, "this database is shard \(known)", hint: "correct the conninfo, or the name"
                )
            }
            if seconds != configuration.retentionSeconds {
                return Finding(
                    .warning, shard, "its retention is \(DurationArgument(.seconds(seconds)))",
                    hint: "run \"meridian migrate\", which sets the configured one"
                )
            }
            return Finding(.ok, shard, "the schema is up to date")
        }
    }

    /// All nodes have such a pool, as far as it is known how many there are.
    private var nodeCount: Int { configuration.replication?.founders.count ?? 1 }

    private var pools: String { nodeCount == 1 ? "the pool" : "\(nodeCount) nodes' pools" }

    /// The pools against every limit that a new connection meets.
    private func connections(_ shard: String, _ facts: ShardFacts) -> Finding? {
        let engine = configuration.engine
        let wanted = nodeCount * (engine.writersMax + engine.readersMax + engine.streamsMax + engine.pinnedMax)
        let server = facts.number("max_connections") - facts.number("superuser_reserved_connections")
        let limits = [
            ("max_connections less the reserved ones", server),
            ("the role's connection limit", facts.number("role_connections")),
            ("the database's connection limit", facts.number("database_connections")),
        ]
        // A limit of -1 is none.
        guard let (what, limit) = limits.filter({ $0.1 >= 0 }).min(by: { $0.1 < $1.1 }), limit < wanted else {
            return nil
        }
        return Finding(
            .warning, shard, "\(what) is \(limit), below the \(wanted) connections of \(pools)",
            hint: "lower pool.writers, pool.readers or pool.streams, or raise the limit (max_connections: restart)"
        )
    }

    private func sessions(_ shard: String, _ facts: ShardFacts) -> Finding? {
        if facts.isOn("sees_sessions") { return nil }
        let role = facts.answers["user"] ?? "the role"
        return Finding(
            .warning, shard, "\(role) does not see what other roles' sessions do, so messages can't name who blocks",
            hint: "GRANT pg_read_all_stats TO \(role)"
        )
    }

    private func idleTimeout(_ shard: String, _ facts: ShardFacts) -> Finding? {
        let milliseconds = facts.number("idle_in_transaction_session_timeout")
        guard milliseconds > 0 else { return nil }
        return Finding(
            .warning, shard, "idle_in_transaction_session_timeout ends transactions that pause for \(milliseconds) ms",
            hint: "set it to 0 for this role, unless that is meant"
        )
    }

    private func clock(_ shard: String, _ facts: ShardFacts) -> Finding? {
        let (offset, error) = facts.clockOffset
        guard abs(offset) - error > Self.clockOffsetMaxNanoseconds else { return nil }
        let direction = offset > 0 ? "ahead of" : "behind"
        return Finding(
            .warning, shard, "its clock is \(abs(offset) / 1_000_000) ms \(direction) this machine's",
            hint: "run a time daemon (chrony) on both"
        )
    }

    /// What a standby that is promoted may lack (decision 0017).
    private func failover(_ shard: String, _ facts: ShardFacts) -> Finding? {
        let standbys = facts.number("standbys")
        guard facts.servers > 1 || standbys > 0 else { return nil }
        let names = facts.answers["synchronous_standby_names"] ?? ""
        guard !names.isEmpty else {
            return Finding(
                .warning, shard, "no standby is synchronous: what was committed last is lost when one is promoted",
                hint: "set synchronous_standby_names = 'ANY 1 (*)'; Patroni: synchronous_mode: true"
            )
        }
        if facts.answers["synchronous_commit"] == "local" {
            return Finding(
                .warning, shard, "synchronous_commit is local: commits do not wait for the synchronous standby",
                hint: "set synchronous_commit = on"
            )
        }
        guard facts.isOn("sees_sessions"), facts.number("synchronous_standbys") == 0 else { return nil }
        return Finding(
            .warning, shard, "no synchronous standby is connected, and every commit waits for one",
            hint: "start one that synchronous_standby_names = '\(names)' names"
        )
    }

    private func durability(_ shard: String, _ facts: ShardFacts) -> [Finding] {
        let settings = [
            ("fsync", "a crash of the machine can lose or tear what was committed"),
            ("full_page_writes", "a crash of the machine can tear pages"),
            ("synchronous_commit", "a crash of the server can lose what was committed on this shard alone"),
        ]
        return settings.filter { facts.answers[$0.0] == "off" }.map { name, risk in
            Finding(.warning, shard, "\(name) is off: \(risk)", hint: "set \(name) = on")
        } + [Finding(.ok, shard, "wal_level is \(facts.answers["wal_level"] ?? "unknown")")]
    }
}
