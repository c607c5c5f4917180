import ArgumentParser
import EventLoops
import ShardBackend
import ShardSchema
import TransactionCore
import TransactionEngine

/// `meridian migrate`: brings the schema `meridian` on every shard up to date.
struct Migrate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Bring Meridian's schema on every shard up to date.",
        discussion: """
            Each migration is a transaction, applied once; a second run changes nothing. Also writes down on every \
            shard which shard of which cluster it is, and sets its retention to the configured one.

              meridian migrate --plan       only say what is missing
              meridian migrate
            """
    )

    @OptionGroup var cluster: ClusterOptions

    @Flag(help: "Only say what is missing.")
    var plan = false

    func run() async throws {
        let configuration = try cluster.load()
        let loop = try EventLoop(name: "migrate")
        defer { loop.shutdown() }
        let migration = ClusterMigration(configuration: configuration, loop: loop)
        for (shard, changes) in plan ? try await migration.plan() : try await migration.apply() {
            let state = plan ? "lacks" : "now has"
            print("\(shard): \(changes.isEmpty ? "up to date" : "\(state) \(changes.joined(separator: ", "))")")
        }
    }
}

/// The migrations of all shards of a cluster.
struct ClusterMigration: Sendable {
    /// How long a shard may take to let us in.
    private static let patience = Duration.seconds(10)

    let configuration: ClusterConfiguration
    let loop: EventLoop

    /// What each shard lacks; changes nothing.
    func plan() async throws -> [(shard: ShardID, changes: [String])] {
        try await eachShard { _, connection in
            let pending = try await Migrator(connection).plan().pending.map(\.name)
            return pending + (pending.isEmpty ? try await retentionChange(on: connection) : [])
        }
    }

    /// Brings every shard up to date and makes it that shard of this cluster. Returns what each shard lacked.
    ///
    /// - Throws: ``ConfigurationError`` with the shard's name and PostgreSQL's reasons.
    func apply() async throws -> [(shard: ShardID, changes: [String])] {
        // The cluster's name is the one that a shard has already; the first shard of a new cluster makes it up.
        let names = try await eachShard { _, connection in try await Migrator(connection).cluster() }
        var cluster = names.lazy.compactMap(\.1).first
        return try await eachShard { shard, connection in
            let migrator = Migrator(connection)
            let applied = try await migrator.apply().map(\.name)
            cluster = try await migrator.claim(shard, of: cluster)
            let change = try await retentionChange(on: connection)
            if !change.isEmpty {
                let set = SQLStatement("CALL meridian.set_retention($1)", [.int64(configuration.retentionSeconds)])
                _ = try await connection.run([set])
            }
            return applied + change
        }
    }

    /// The retention that a migrated shard is to get; empty when it has it.
    private func retentionChange(on connection: ShardConnection) async throws -> [String] {
        let seconds = try await connection.run("SELECT seconds FROM meridian.retention")[0].int64(0)
        if seconds == configuration.retentionSeconds { return [] }
        return ["a retention of \(DurationArgument(.seconds(configuration.retentionSeconds)))"]
    }

    /// Does something on each shard in turn; an error names the shard.
    private func eachShard<Result: Sendable>(
        _ body: (ShardID, ShardConnection) async throws -> Result
    ) async throws -> [(ShardID, Result)] {
        var results: [(ShardID, Result)] = []
        for shard in configuration.engine.shards {
            do {
                let settings = try ConnectionSettings(
                    shard.conninfo, overrides: ["application_name": "meridian migrate"]
                )
                let connection = try await ShardConnection.connect(
                    to: settings.ofPrimary, on: loop, deadline: .now + Self.patience
                )
                do {
                    results.append((shard.id, try await body(shard.id, connection)))
                    await connection.close()
                } catch {
                    await connection.close()
                    throw error
                }
            } catch let error as ShardError {
                let fields = error.serverFields
                throw ConfigurationError(
                    "shard \(shard.id): \(error.message)", detail: fields?.detail, hint: fields?.hint
                )
            } catch let error as SchemaError {
                throw ConfigurationError("shard \(shard.id): \(error.message)", detail: error.detail, hint: error.hint)
            }
        }
        return results
    }
}
