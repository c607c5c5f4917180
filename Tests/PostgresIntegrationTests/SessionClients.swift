import ClientAuthentication
import Gateway
import Logging
import SQLSessions
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

/// A node that serves clients over test shards.
struct ServedShards: Sendable {
    let gateway: Gateway
    let engine: TransactionEngine
    let shards: EngineShards

    var port: Int { gateway.port }

    /// Serves clients over `count` fresh shards while `body` runs.
    ///
    /// - Parameters:
    ///   - isPrivate: on servers of its own, which the test may kill.
    ///   - faults: what commits come to on their way.
    static func with(
        _ count: Int = 2, isPrivate: Bool = false, faults: FaultHook? = nil,
        _ body: (ServedShards) async throws -> Void
    ) async throws {
        func serve(_ shards: EngineShards) async throws {
            try await shards.engine({ $0.faultHook = faults }) { engine in
                let node = try await SessionNode(engine, database: "meridian")
                let rules = try HostRules(parsing: "host all all 127.0.0.1/32 trust")
                let gateway = try Gateway.start(
                    GatewayConfiguration(port: 0, hostRules: rules, mockSecret: [1]), provider: node, on: engine.loop,
                    logger: Logger(label: "tests", factory: { _ in SwiftLogNoOpLogHandler() }))
                do {
                    try await body(ServedShards(gateway: gateway, engine: engine, shards: shards))
                    await gateway.shutdown(grace: .seconds(2))
                } catch {
                    await gateway.shutdown(grace: .zero)
                    throw error
                }
            }
            try await shards.waitUntilSettled()
        }
        if isPrivate {
            try await EngineShards.withPrivate(count, serve)
        } else {
            try await EngineShards.withShared(count, serve)
        }
    }

    var conninfo: String { "host=127.0.0.1 port=\(port) user=meridian dbname=meridian" }

    /// Connects as a driver does, by libpq; statements go by the extended protocol.
    func connect() async throws -> ShardConnection {
        try await ShardConnection.connect(
            to: try ConnectionSettings(conninfo), on: shards.loop, deadline: .now + .seconds(10))
    }

    /// Runs `body` with a session of its own.
    func session<Value>(_ body: (ShardConnection) async throws -> Value) async throws -> Value {
        let connection = try await connect()
        do {
            let value = try await body(connection)
            await connection.close()
            return value
        } catch {
            await connection.close()
            throw error
        }
    }

    /// Runs psql with a script; returns what it printed, errors too, unaligned and without headers.
    func psql(_ script: String) async throws -> String {
        let command = try RunningCommand(
            ["-XAtq", "-v", "VERBOSITY=sqlstate", "-c", script, conninfo], program: "/usr/bin/psql")
        await command.exitStatus()
        return command.output + command.errors
    }
}

extension ShardConnection {
    /// Runs one text by the simple protocol and returns its values, rows by lines, columns by commas.
    @discardableResult
    func text(_ sql: String) async throws -> String {
        let results = try await runSimple(sql, deadline: .now + .seconds(15))
        return try results.flatMap { result in
            try result.map { row in
                try (0..<row.columnCount).map { try row.isNull($0) ? "NULL" : try row.text($0) }
                    .joined(separator: ",")
            }
        }.joined(separator: "\n")
    }

    /// The SQLSTATE that a text fails with; nil when it doesn't.
    func failure(_ sql: String) async -> String? {
        do {
            try await text(sql)
            return nil
        } catch {
            return (error as? ShardError)?.sqlState.rawValue ?? "\(error)"
        }
    }
}
