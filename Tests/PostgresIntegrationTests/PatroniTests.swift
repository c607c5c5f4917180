import EventLoops
import Foundation
import LocalCluster
import ShardBackend
import ShardSchema
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

/// A shard whose primary is chosen by Patroni, with a real etcd.
@Suite(.serialized, .enabled(if: PatroniShard.isInstalled, "patroni or etcd-server is not installed"))
struct PatroniTests {
    @Test("transfers go on through a switchover by Patroni and the death of its primary, and nothing is lost")
    func failover() async throws {
        let directory = try TemporaryDirectory()
        try await EngineShards.withPrivate(1) { shards in
            let patroni = try await PatroniShard.start(beside: shards.shards[0].server)
            do {
                try await patroni.migrate(on: shards)
                try await shards.engine {
                    $0.shards.append(patroni.configuration)
                } _: { engine in
                    let bank = try await engine.makeBank(accounts: 100)
                    let history = try HistoryFile(appendingTo: "\(directory.path)/history")
                    var load = BankLoad(seed: 23)
                    load.clients = 4
                    load.duration = .seconds(600)
                    let run = BankRun(load, on: bank, history: history)
                    async let running: Void = run.run()
                    try await goOn(run)
                    let first = try await patroni.leader()
                    try await patroni.switchOver(from: first)
                    try await goOn(run)
                    let second = try await patroni.leader(not: first)
                    try await patroni.crash(second)
                    _ = try await patroni.leader(not: second)
                    try await goOn(run)
                    await run.stop()
                    try await running
                    let tally = await run.tally
                    print("Patroni: longest gap \(tally.longestGap), \(tally.transfers) transfers, \(tally.failures)")
                    #expect(tally.wrongSums == 0)
                    // What a commit has left to apply is settled within moments.
                    var findings = BankFindings()
                    try await waitUntil("nothing is prepared") {
                        findings = try await BankCheck(bank).run(
                            history: try HistoryFile.read("\(directory.path)/history"), total: bank.total, samples: 20,
                            seed: 1)
                        return findings.prepared.isEmpty
                    }
                    #expect(findings.isConsistent && findings.transfersChecked > 0, "\(findings)")
                }
                await patroni.stop()
            } catch {
                await patroni.stop()
                throw error
            }
        }
    }

    /// Waits until the run has done more.
    private func goOn(_ run: BankRun) async throws {
        let before = await run.tally.transfers
        try await waitUntil("transfers go on", within: .seconds(90)) { await run.tally.transfers > before + 20 }
    }
}

/// Two PostgreSQL servers in the hands of Patroni.
private struct PatroniShard {
    static let isInstalled = ["/usr/bin/patroni", "/usr/bin/etcd"].allSatisfy {
        FileManager.default.isExecutableFile(atPath: $0)
    }

    private struct Member {
        let name: String
        let home: String
        let port: UInt16
        let restPort: UInt16
    }

    private let home: String
    private let members: [Member]
    /// etcd, then each member's Patroni.
    private let programs: [LocalProgram]
    private let installation: PostgresInstallation

    var configuration: ShardConfiguration {
        let ports = members.map { "\($0.port)" }.joined(separator: ",")
        return ShardConfiguration(
            id: ShardID("patroni")!, conninfo: "host=127.0.0.1,127.0.0.1 port=\(ports) dbname=meridian user=meridian")
    }

    /// Starts etcd and both members in a directory beside a server's, as its user, and waits for a primary with a
    /// synchronous standby.
    static func start(beside server: LocalPostgres) async throws -> PatroniShard {
        let home = "\(server.home)-patroni"
        let user = try FileManager.default.attributesOfItem(atPath: server.home)
        let owner = user.filter { [.ownerAccountID, .groupOwnerAccountID].contains($0.key) }
        let members = try ["one", "two"].map {
            Member(name: $0, home: "\(home)/\($0)", port: try freePort(), restPort: try freePort())
        }
        for path in [home] + members.map(\.home) {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
            try FileManager.default.setAttributes(owner.merging([.posixPermissions: 0o700]) { $1 }, ofItemAtPath: path)
        }
        let (client, peer) = (try freePort(), try freePort())
        let etcd = [
            "/usr/bin/etcd", "--data-dir", "\(home)/etcd", "--listen-client-urls", "http://127.0.0.1:\(client)",
            "--advertise-client-urls", "http://127.0.0.1:\(client)", "--listen-peer-urls", "http://127.0.0.1:\(peer)",
            "--initial-advertise-peer-urls", "http://127.0.0.1:\(peer)", "--initial-cluster",
            "default=http://127.0.0.1:\(peer)",
        ]
        var programs = [try await LocalProgram.start(etcd, in: home, asServerUser: true)]
        for member in members {
            let path = "\(member.home)/patroni.yml"
            let text = settings(of: member, etcd: client, programs: server.installation.binaryDirectory)
            try text.write(toFile: path, atomically: true, encoding: .utf8)
            programs.append(
                try await LocalProgram.start(["/usr/bin/patroni", path], in: member.home, asServerUser: true))
        }
        let shard = PatroniShard(
            home: home, members: members, programs: programs, installation: server.installation)
        do {
            try await shard.makeDatabase()
        } catch {
            await shard.stop()
            throw error
        }
        return shard
    }

    private static func settings(of member: Member, etcd: UInt16, programs: String) -> String {
        """
        scope: shard
        name: \(member.name)
        restapi: {listen: "127.0.0.1:\(member.restPort)", connect_address: "127.0.0.1:\(member.restPort)"}
        etcd3: {host: "127.0.0.1:\(etcd)"}
        bootstrap:
          dcs:
            ttl: 20
            loop_wait: 1
            retry_timeout: 3
            primary_start_timeout: 0
            synchronous_mode: true
            postgresql: {parameters: {max_prepared_transactions: 100}}
          initdb: [{encoding: UTF8}, {locale: C.UTF-8}]
        postgresql:
          listen: 127.0.0.1:\(member.port)
          connect_address: 127.0.0.1:\(member.port)
          data_dir: \(member.home)/data
          bin_dir: \(programs)
          pgpass: \(member.home)/pgpass
          use_pg_rewind: true
          authentication: {superuser: {username: postgres}, replication: {username: postgres}}
          parameters: {unix_socket_directories: "\(member.home)"}
          pg_hba: [local all all trust, host all all 127.0.0.1/32 trust, host replication all 127.0.0.1/32 trust]
        """
    }

    private func makeDatabase() async throws {
        try await waitUntil("there is a primary with a synchronous standby", within: .seconds(120)) {
            guard let leader = currentLeader() else { return false }
            return (try? psql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", on: leader)) == "1"
        }
        let leader = try await leader()
        _ = try psql("CREATE ROLE meridian LOGIN IN ROLE pg_monitor", on: leader)
        _ = try psql("CREATE DATABASE meridian OWNER meridian", on: leader)
    }

    func migrate(on shards: EngineShards) async throws {
        let cluster = try await shards.session(on: 0) { try await Migrator($0).cluster() }
        // The standby may not know the database yet, and libpq would ask no further.
        let leader = try await leader()
        let port = members.first { $0.name == leader }!.port
        let server = ["host": "127.0.0.1", "port": "\(port)"]
        let settings = try ConnectionSettings(configuration.conninfo, overrides: server)
        let connection = try await ShardConnection.connect(to: settings, on: shards.loop)
        let migrator = Migrator(connection)
        _ = try await migrator.apply()
        _ = try await migrator.claim(configuration.id, of: cluster)
        await connection.close()
    }

    /// The member that accepts writes.
    func leader(not former: String? = nil) async throws -> String {
        var leader: String?
        try await waitUntil("there is a leader", within: .seconds(90)) {
            leader = currentLeader(not: former)
            return leader != nil
        }
        return try #require(leader)
    }

    private func currentLeader(not former: String? = nil) -> String? {
        members.map(\.name).first { $0 != former && (try? psql("SELECT pg_is_in_recovery()", on: $0)) == "f" }
    }

    func switchOver(from leader: String) async throws {
        try await waitForSynchronousStandby()
        let answer = try await control(["switchover", "--leader", leader, "--force", "shard"])
        #expect(answer.contains("Successfully"), "\(answer)")
    }

    /// Patroni promotes no other.
    private func waitForSynchronousStandby() async throws {
        try await waitUntil("Patroni knows a synchronous standby", within: .seconds(90)) {
            try await control(["list", "shard"]).contains("Sync Standby")
        }
    }

    /// What `patronictl` says.
    private func control(_ command: [String]) async throws -> String {
        let control = try RunningCommand(
            ["-c", "\(members[0].home)/patroni.yml"] + command, program: "/usr/bin/patronictl")
        _ = await control.exitStatus()
        return control.output + control.errors
    }

    /// Kills a member's Patroni and its server, as when their machine is lost.
    func crash(_ name: String) async throws {
        try await waitForSynchronousStandby()
        programs[1 + members.firstIndex { $0.name == name }!].signal(SIGKILL)
        kill(try processID(of: name), SIGKILL)
    }

    /// The number of the server's main process.
    private func processID(of name: String) throws -> Int32 {
        let text = try String(contentsOfFile: "\(home)/\(name)/data/postmaster.pid", encoding: .utf8)
        return try #require(text.split(separator: "\n").first.flatMap { Int32($0) })
    }

    private func psql(_ command: String, on name: String) throws -> String {
        let member = members.first { $0.name == name }!
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "\(installation.binaryDirectory)/psql")
        let conninfo = "host=127.0.0.1 port=\(member.port) dbname=postgres user=postgres"
        process.arguments = ["-XAtq", "-c", command, conninfo]
        let output = Pipe()
        (process.standardOutput, process.standardError) = (output, FileHandle.nullDevice)
        try process.run()
        let printed = output.fileHandleForReading.readDataToEndOfFile()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw PsqlError.failed }
        return String(decoding: printed, as: UTF8.self).trimmingCharacters(in: .newlines)
    }

    private enum PsqlError: Error { case failed }

    /// Each member ends its server before itself.
    func stop() async {
        for program in programs.reversed() { await program.stop() }
        for member in members {
            guard let number = try? processID(of: member.name),
                let command = try? String(contentsOfFile: "/proc/\(number)/cmdline", encoding: .utf8),
                command.contains(member.home)
            else { continue }
            kill(number, SIGKILL)
        }
    }
}
