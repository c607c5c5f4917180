import ClientAuthentication
import Gateway
import Logging
import SQLSessions
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

/// Nodes that serve clients over test shards.
struct ServedShards: Sendable {
    let gateways: [Gateway]
    let engines: [TransactionEngine]
    let shards: EngineShards
    /// What the nodes know of each other, where there are several.
    let peers: EnginePeers?

    var gateway: Gateway { gateways[0] }
    var engine: TransactionEngine { engines[0] }
    var port: Int { gateway.port }

    /// Serves clients over `count` fresh shards while `body` runs.
    ///
    /// - Parameters:
    ///   - nodes: how many nodes do so at once.
    ///   - isPrivate: on servers of its own, which the test may kill.
    ///   - faults: what commits come to on their way.
    static func with(
        _ count: Int = 2, nodes: Int = 1, isPrivate: Bool = false, faults: FaultHook? = nil,
        _ body: (ServedShards) async throws -> Void
    ) async throws {
        func serveAll(_ shards: EngineShards) async throws {
            if nodes == 1 {
                try await shards.engine({ $0.faultHook = faults }) { try await Self.serve([$0], nil, shards, body) }
            } else {
                try await shards.engines(nodes, { $1.faultHook = faults }) {
                    try await Self.serve($1, $0, shards, body)
                }
            }
            try await shards.waitUntilSettled()
        }
        if isPrivate {
            try await EngineShards.withPrivate(count, serveAll)
        } else {
            try await EngineShards.withShared(count, serveAll)
        }
    }

    private static func serve(
        _ engines: [TransactionEngine], _ peers: EnginePeers?, _ shards: EngineShards,
        _ body: (ServedShards) async throws -> Void
    ) async throws {
        var gateways: [Gateway] = []
        let result: Result<Void, any Error>
        do {
            for engine in engines {
                let node = try await SessionNode(engine, database: "meridian")
                let rules = try HostRules(parsing: "host all all 127.0.0.1/32 trust")
                gateways.append(
                    try Gateway.start(
                        GatewayConfiguration(port: 0, hostRules: rules, mockSecret: [1]), provider: node,
                        on: engine.loop,
                        logger: Logger(label: "tests", factory: { _ in SwiftLogNoOpLogHandler() })))
            }
            result = .success(
                try await body(ServedShards(gateways: gateways, engines: engines, shards: shards, peers: peers)))
        } catch {
            result = .failure(error)
        }
        for gateway in gateways {
            if case .success = result {
                await gateway.shutdown(grace: .seconds(2))
            } else {
                await gateway.shutdown(grace: .zero)
            }
        }
        try result.get()
    }

    var conninfo: String { conninfo(of: 0) }

    private func conninfo(of node: Int) -> String {
        "host=127.0.0.1 port=\(gateways[node].port) user=meridian dbname=meridian"
    }

    /// Connects as a driver does, by libpq; statements go by the extended protocol.
    func connect(to node: Int = 0) async throws -> ShardConnection {
        try await ShardConnection.connect(
            to: try ConnectionSettings(conninfo(of: node % gateways.count)), on: shards.loop,
            deadline: .now + .seconds(10))
    }

    /// Runs `body` with a session of its own.
    func session<Value>(on node: Int = 0, _ body: (ShardConnection) async throws -> Value) async throws -> Value {
        let connection = try await connect(to: node)
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
