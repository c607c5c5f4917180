import Foundation
import ShardBackend
import SimulationKit
import TestSupport
import Testing
import TransactionCore

/// Thousands of concurrent transactions over real connections, judged by what their clients saw.
@Suite(.serialized) struct ListAppendTests {
    @Test(
        "what thousands of concurrent transactions read and appended on several shards is strictly serializable",
        arguments: [1, 3])
    func strictlySerializable(nodes: Int) async throws {
        try await ServedShards.with(3, nodes: nodes) { served in
            let record = ListAppendRecord(ListAppendLoad("ListAppendTests"))
            try await run(record, on: served)
            _ = try await served.session { try await record.check(by: $0) }
            #expect(record.committed >= record.load.committed)
            // A deadlock that nobody finds ends by a timeout: 57014.
            #expect(Set(record.failures.keys).isSubset(of: ["40001", "40P01"]), "\(record.failures)")
            #expect(!record.failures.isEmpty, "nobody got in anybody's way")
            #expect(try await spread(on: served).allSatisfy { $0 > 10 }, "the keys are on all shards")
        }
    }

    @Test("it stays so while PostgreSQL servers are killed and started again, and clients die midway")
    func faults() async throws {
        try await ServedShards.with(3, isPrivate: true) { served in
            var load = ListAppendLoad("ListAppendTests.faults")
            load.committed = 1_500
            let record = ListAppendRecord(load)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { try await run(record, on: served) }
                group.addTask { try await killServers(served, record) }
                group.addTask { try await dyingClients(served, record) }
                try await group.waitForAll()
            }
            let history = try await served.session { try await record.check(by: $0) }
            #expect(record.committed >= record.load.committed)
            #expect(history.contains { $0.outcome == .unknown }, "a fault that nobody felt")
        }
    }

    private func run(_ record: ListAppendRecord, on served: ServedShards) async throws {
        try await served.session { try await ListStep.setup($0) }
        try await record.runClients { try await served.connect(to: $0) }
    }

    private func spread(on served: ServedShards) async throws -> [Int] {
        try await served.shards.plain("SELECT count(*) FROM list WHERE cardinality(elements) > 0").map { Int($0) ?? 0 }
    }

    // MARK: Faults

    /// Kills one server after the other in the middle of the run.
    private func killServers(_ served: ServedShards, _ record: ListAppendRecord) async throws {
        for (place, shard) in served.shards.shards.enumerated() {
            let due = record.load.committed * (place + 1) / 5
            while record.committed < due, !record.isOver { try await Task.sleep(for: .milliseconds(5)) }
            await shard.server.kill()
            try await Task.sleep(for: .milliseconds(200))
            try await shard.server.start()
        }
    }

    /// Clients that hang up in a transaction, or right after they asked for the commit.
    private func dyingClients(_ served: ServedShards, _ record: ListAppendRecord) async throws {
        for round in 0..<30 {
            let due = record.load.committed * round / 40
            while record.committed < due, !record.isOver { try await Task.sleep(for: .milliseconds(5)) }
            let keys = record.activeKeys.prefix(2 + round % 3)
            let steps = keys.map { ListStep.append($0, element: record.element(for: $0), returning: false) }
            let client = try RawClient(port: served.port)
            try await client.logIn(user: "meridian", database: "meridian")
            let began = record.now
            await client.send(.query("BEGIN"))
            for step in steps { await client.send(.query(step.statement(parameters: false).text)) }
            let asks = round % 2 == 0
            if asks { await client.send(.query("COMMIT")) }
            if round % 3 > 0 { try await Task.sleep(for: .milliseconds(round)) }
            client.hangUp()
            record.add(
                ListTransaction(
                    client: 100 + round, began: began, ended: record.now, outcome: asks ? .unknown : .aborted,
                    steps.flatMap(\.appends)))
        }
    }
}
