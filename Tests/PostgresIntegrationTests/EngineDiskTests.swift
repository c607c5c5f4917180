import Foundation
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

/// A small file system in memory; only root can make one.
private final class SmallDisk: Sendable {
    private let directory: TemporaryDirectory

    var path: String { directory.path }

    /// Whether this process may mount file systems.
    static let isPossible: Bool = {
        guard getuid() == 0, let disk = try? SmallDisk(megabytes: 1, writableBy: "\(getuid())") else { return false }
        disk.unmount()
        return true
    }()

    init(megabytes: Int, writableBy user: String) throws {
        directory = try TemporaryDirectory()
        try Self.run("mount", "-t", "tmpfs", "-o", "size=\(megabytes)m,mode=700", "meridian-test", directory.path)
        try Self.run("chown", user, directory.path)
    }

    deinit {
        unmount()
    }

    func unmount() {
        try? Self.run("umount", "--lazy", path)
    }

    /// Takes all the space that is left; returns the file that holds it.
    func fill() -> String {
        let ballast = "\(path)/ballast"
        _ = FileManager.default.createFile(atPath: ballast, contents: nil)
        guard let file = FileHandle(forWritingAtPath: ballast) else { return ballast }
        let block = Data(count: 8192)
        while (try? file.write(contentsOf: block)) != nil {}
        try? file.close()
        return ballast
    }

    private static func run(_ command: String...) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = command
        process.standardError = FileHandle.nullDevice
        try process.run()
        process.waitUntilExit()
        guard process.terminationStatus == 0 else { throw POSIXError(.EPERM) }
    }
}

@Suite struct EngineDiskTests {
    @Test(
        "transfers over a shard whose disk is full fail with 53100, and all is whole and goes on when there is space",
        .enabled(if: SmallDisk.isPossible, "needs the right to mount a file system"))
    func diskFull() async throws {
        try await EngineShards.withPrivate { shards in
            let owner =
                try FileManager.default.attributesOfItem(atPath: shards.shards[1].server.dataDirectory)[
                    .ownerAccountName] as? String
            let disk = try SmallDisk(megabytes: 16, writableBy: try #require(owner))
            try await shards.engine { engine in
                let bank = try await engine.makeBank(accounts: 2000)
                try await shards.waitUntilSettled()
                // All tables move to the small disk: those of the bank, the undo log and the commit log.
                try await shards.shards[1].psql(
                    """
                    CREATE TABLESPACE small LOCATION '\(disk.path)';
                    ALTER TABLE ALL IN TABLESPACE pg_default SET TABLESPACE small;
                    ALTER INDEX ALL IN TABLESPACE pg_default SET TABLESPACE small;
                    ALTER DATABASE meridian SET default_tablespace = small
                    """)
                let ballast = disk.fill()
                var load = BankLoad(seed: 11)
                load.clients = 8
                load.duration = .seconds(3)
                let full = BankRun(load, on: bank, history: nil)
                try await full.run()
                let tally = await full.tally
                #expect(tally.failures[.diskFull, default: 0] > 0, "\(tally.failures)")
                #expect(tally.wrongSums == 0 && tally.indeterminate == 0)
                try FileManager.default.removeItem(atPath: ballast)
                try await shards.waitUntilSettled()
                #expect(try await bank.sum(at: try await engine.snapshot()) == bank.total)
                load.duration = .milliseconds(300)
                let after = BankRun(load, on: bank, history: nil)
                try await after.run()
                let (transfers, failures) = (await after.tally.transfers, await after.tally.failures)
                #expect(transfers > 0 && failures.isEmpty, "\(failures)")
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums().reduce(0, +) == bank.total)
            }
            try await shards.shards[1].server.restart()
            #expect(try await shards.plainSums().reduce(0, +) == 200_000)
            await shards.shards[1].server.stop()
        }
    }
}
