import ArgumentParser
import ShardBackend
import ShardSchema
import TransactionCore
import TransactionEngine

/// `meridian migrate`: makes what Meridian keeps on every shard, or brings it up to date.
struct Migrate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Make or update the schema \"meridian\" on every shard.",
        discussion: """
            Shows what each shard has and applies what it lacks; running it again changes nothing. The first time, it \
            also records on each shard which shard of which cluster it is, so that no other is taken for it later.

              meridian migrate --dry-run
              meridian migrate
            """
    )

    @OptionGroup var cluster: ClusterOptions

    @Flag(help: "Show what would be applied; change nothing.")
    var dryRun = false

    func run() async throws {
        let configuration = try cluster.load()
        let loop = try EventLoop(name: "migrate")
        defer { loop.shutdown() }
        try await migrate(configuration.engine.shards, on: loop, dryRun: dryRun) { print($0) }
    }
}

/// Migrates `shards` one after the other, and gives each its name; `report` gets a line for each step.
///
/// - Throws: ``ShardError`` when a shard can't be reached, ``SchemaError`` when it can't be migrated or is another one.
func migrate(
    _ shards: [ShardConfiguration], on loop: EventLoop, dryRun: Bool = false, report: (String) -> Void
) async throws {
    var connections: [ShardConnection] = []
    do {
        // All are reached, and none is another cluster's, before any is changed.
        for shard in shards {
            let settings = try ConnectionSettings(shard.conninfo, overrides: ["application_name": "meridian migrate"])
            connections.append(try await ShardConnection.connect(to: settings, on: loop, deadline: .now + .seconds(10)))
        }
        var cluster: String?
        for connection in connections where cluster == nil { cluster = try await Migrator(connection).cluster() }
        for (shard, connection) in zip(shards, connections) {
            let migrator = Migrator(connection)
            let plan = try await migrator.plan()
            for migration in plan.applied { report("\(shard.id)  applied   \(migration.name)") }
            if dryRun {
                for migration in plan.pending { report("\(shard.id)  pending   \(migration.name)") }
            } else {
                for migration in try await migrator.apply() { report("\(shard.id)  applying  \(migration.name)") }
                cluster = try await migrator.claim(shard.id, of: cluster)
            }
        }
    } catch {
        for connection in connections { await connection.close() }
        throw error
    }
    for connection in connections { await connection.close() }
}
