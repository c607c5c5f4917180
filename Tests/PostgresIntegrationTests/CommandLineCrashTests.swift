import EventLoops
import Foundation
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

/// The program itself, killed, paused and refused.
@Suite(.serialized) struct CommandLineCrashTests {
    private let files: TemporaryDirectory

    init() throws {
        files = try TemporaryDirectory()
    }

    private func bank(_ arguments: [String], on shards: EngineShards, fault: String = "") throws -> RunningCommand {
        try RunningCommand(
            ["bank"] + arguments + ["--in-process"] + shards.arguments,
            environment: ["MERIDIAN_FAULT": fault, "MERIDIAN_CONFIG": ""])
    }

    private func load(seconds: Double, clients: Int = 8) -> [String] {
        [
            "run", "--clients", "\(clients)", "--seconds", "\(seconds)", "--cross-shard", "1", "--history",
            "\(files.path)/history", "--json", "\(files.path)/report.json",
        ]
    }

    private func check(_ shards: EngineShards) async throws {
        let check = try bank(
            ["check", "--history", "\(files.path)/history", "--total", "60000", "--samples", "20"], on: shards)
        #expect(await check.exitStatus() == 0, "\(check.output)\(check.errors)")
    }

    private func makeBank(_ shards: EngineShards) async throws {
        let make = try bank(["init", "--accounts", "60", "--balance", "1000"], on: shards)
        try #require(await make.exitStatus() == 0, "\(make.errors)")
    }

    private func prepared(_ shards: EngineShards) async throws -> Int {
        try await shards.plain("SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()")
            .reduce(0) { $0 + (Int($1) ?? 0) }
    }

    @Test(
        "a coordinator killed at any moment of a commit loses nothing: the next run settles all, and the check passes")
    func killed() async throws {
        try await EngineShards.withShared(3) { shards in
            try await makeBank(shards)
            for point in FaultPoint.allCases {
                let run = try bank(load(seconds: 30), on: shards, fault: "\(point):40")
                #expect(await run.exitStatus() == -SIGKILL, "at \(point): \(run.output)\(run.errors)")
                // Every transfer is cross-shard, so the one at which it was killed is prepared from there on.
                if point != .beforePrepare, point != .duringCommitWait {
                    #expect(try await prepared(shards) > 0, "at \(point)")
                }
                let next = try bank(load(seconds: 0.3), on: shards)
                #expect(await next.exitStatus() == 0, "after \(point): \(next.output)\(next.errors)")
                #expect(try await prepared(shards) == 0, "after \(point)")
            }
            #expect(try HistoryFile.read("\(files.path)/history").count > 100)
            try await check(shards)
        }
    }

    @Test("a second process is refused and told who coordinates; after SIGKILL of the first it takes over")
    func second() async throws {
        try await EngineShards.withShared { shards in
            try await makeBank(shards)
            let first = try bank(load(seconds: 60), on: shards)
            let holder = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            try await waitUntil("the first coordinates") {
                try await shards.plain(
                    "\(holder) AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
                    == ["1", "1"]
            }
            let second = try bank(load(seconds: 1), on: shards)
            #expect(await second.exitStatus() == 1)
            #expect(second.errors.contains("another coordinator holds shard shard1"), "\(second.errors)")
            #expect(second.errors.contains("meridian coordinator, node 1 (process "), "\(second.errors)")
            #expect(second.errors.contains("HINT:"))
            first.signal(SIGKILL)
            #expect(await first.exitStatus() == -SIGKILL)
            try await check(shards)
        }
    }

    @Test("a coordinator that was paused, taken over and resumed commits nothing more")
    func paused() async throws {
        try await EngineShards.withShared { shards in
            try await makeBank(shards)
            let first = try bank(load(seconds: 60, clients: 4), on: shards)
            let committed = "SELECT count(*) FROM meridian.commit_log WHERE xid IS NOT NULL"
            try await waitUntil("the first commits") {
                try await shards.plain(committed).allSatisfy { (Int($0) ?? 0) > 20 }
            }
            first.signal(SIGSTOP)
            // Its lock lasts as long as its session; a machine that is gone loses it by TCP keepalive, or an operator
            // ends it.
            for shard in shards.shards {
                try await shard.psql(
                    """
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name = 'meridian coordinator, node 1' AND datname = current_database()
                    """)
            }
            try await shards.engine {
                $0.node = NodeID(rawValue: 2)!
            } _: { successor in
                let taken = try await shards.plain(committed)
                first.signal(SIGCONT)
                try await successor.loop.sleep(until: .now + .seconds(1))
                #expect(try await shards.plain(committed) == taken)
                #expect(try await prepared(shards) == 0)
                let bank = try await Bank.open(on: successor)
                #expect(bank.total == 60_000)
                _ = try await bank.transfer(1, from: 0, to: 1)
            }
            first.signal(SIGKILL)
            await first.exitStatus()
            try await check(shards)
        }
    }

    @Test("a fault point that is none is refused before anything is touched")
    func badFault() async throws {
        try await EngineShards.withShared(1) { shards in
            let run = try bank(load(seconds: 1), on: shards, fault: "nowhere:1")
            #expect(await run.exitStatus() == 1)
            #expect(
                run.errors.contains("MERIDIAN_FAULT=nowhere:1") && run.errors.contains("afterPrepareBeforeDecision"))
        }
    }

    @Test("a node that is killed amid a COPY leaves nothing of it, and the past is as it was for the next one")
    func killedAmidCopy() async throws {
        try await EngineShards.withShared(2) { shards in
            let rows = Array((1...12_000).map { "\($0)\t\(String(repeating: "k", count: 500))\n" }.joined().utf8)
            let killed = try serve(shards)
            var before = ""
            try await session(with: killed, shards) { client in
                try await client.text("CREATE TABLE t (a bigint, k text, PRIMARY KEY (a, k))")
                try await client.text("INSERT INTO t VALUES (0, '')")
                before = try await client.text("SHOW meridian.commit_timestamp")
                let copy = try await client.copyIn("COPY t FROM STDIN")
                // More than is kept of the keys: there are undo entries for some of the rows.
                try await copy.write(rows)
                killed.signal(SIGKILL)
                #expect(await killed.exitStatus() == -SIGKILL)
                await #expect(throws: ShardError.self) { try await copy.finish() }
            }
            let next = try serve(shards)
            try await session(with: next, shards) { client in
                #expect(try await client.text("SELECT count(*) FROM t") == "1")
                let copy = try await client.copyIn("COPY t FROM STDIN")
                try await copy.write(rows)
                #expect(try await copy.finish().affectedRows == 12_000)
                #expect(try await client.text("SELECT count(*) FROM t") == "12001")
                try await client.text("SET meridian.read_timestamp = '\(before)'")
                #expect(try await client.text("SELECT count(*) FROM t") == "1")
            }
            next.signal(SIGTERM)
            #expect(await next.exitStatus() == 0)
        }
    }

    private func serve(_ shards: EngineShards) throws -> RunningCommand {
        try RunningCommand(
            ["serve", "--listen", "127.0.0.1:0"] + shards.arguments, environment: ["MERIDIAN_CONFIG": ""])
    }

    private func session(
        with node: RunningCommand, _ shards: EngineShards, _ body: (ShardConnection) async throws -> Void
    ) async throws {
        try await node.waits(for: "ready: ")
        let line = try #require(node.output.split(separator: "\n").last { $0.hasPrefix("ready: ") })
        let client = try await ShardConnection.connect(
            to: try ConnectionSettings(String(line.dropFirst("ready: ".count))), on: shards.loop,
            deadline: .now + .seconds(10))
        try await body(client)
        await client.close()
    }
}
