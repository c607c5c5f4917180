import Consensus
import EventLoops
import Foundation
import Glibc
import TestSupport
import Testing
import TransactionCore

@testable import MetadataStorage

/// This program itself, run once more with a directory in this variable, is a process that writes until it is killed.
private let directoryVariable = "MERIDIAN_TEST_STORAGE"
private let childDirectory = ProcessInfo.processInfo.environment[directoryVariable]
private let rewriting = LogThread.Rewriting(bytesMin: 20_000, factor: 2)

@Suite struct StorageCrashTests {
    @Test("a process killed at any moment has left all that it called durable", .enabled(if: childDirectory == nil))
    func killed() async throws {
        let test = try TestStorage()
        let given = ProcessInfo.processInfo.environment["MERIDIAN_TEST_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0...UInt64.max)
        print("StorageCrashTests: MERIDIAN_TEST_SEED=\(seed)")
        var random = seed
        var durable = 0
        for _ in 0..<6 {
            let child = try RunningCommand(
                ["--testing-library", "swift-testing", "--filter", "StorageCrashTests/child"],
                program: "/proc/self/exe", environment: [directoryVariable: test.path])
            // Some way on from where it begins.
            random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let goal = durable + 100 + Int(random >> 33) % 1_000
            #expect(await eventually { Self.lastDurable(child.output) ?? 0 >= goal })
            child.signal(SIGKILL)
            #expect(await child.exitStatus() == -SIGKILL)
            let reported = try #require(Self.lastDurable(child.output))
            let state = try await test.reopened()
            durable = Int(state.chosenUpTo.rawValue)
            #expect(durable >= reported)
            let entries = (state.snapshot.slot.rawValue + 1...state.chosenUpTo.rawValue).map { slot in
                state.chosenEntry(in: Slot(rawValue: slot)) == makeEntry(slot)
            }
            #expect(!entries.contains(false))
        }
        #expect(durable > 600)
    }

    private static func lastDurable(_ output: String) -> Int? {
        // The last line may be half there.
        output.split(separator: "\n", omittingEmptySubsequences: false).dropLast()
            .last { $0.hasPrefix("durable ") }.flatMap { Int($0.dropFirst(8)) }
    }

    @Test("a process that writes until it is killed", .enabled(if: childDirectory != nil))
    func child() async throws {
        let loop = try EventLoop(name: "storage-test")
        let (storage, state) = try MetadataStorage.open(
            directory: try #require(childDirectory), identity: identity, membership: threeNodes, callbacksOn: loop,
            logger: RecordingLog().logger, rewriting: rewriting, calls: FileCalls())
        var slot = state.chosenUpTo
        // It is killed long before.
        while slot.rawValue < 1_000_000 {
            for _ in 0..<10 {
                slot = slot.next
                let learned = slot
                storage.append([.learned(slot, makeEntry(slot.rawValue))]) { outcome in
                    guard outcome.error == nil else { exit(1) }
                    let line = Array("durable \(learned)\n".utf8)
                    _ = line.withUnsafeBytes { Glibc.write(1, $0.baseAddress, $0.count) }
                }
            }
            let snapshot = Snapshot(slot: slot, membership: threeNodes, state: [])
            let records = slot.rawValue % 100 == 0 ? [DurableRecord.snapshot(snapshot)] : []
            #expect(await storage.written(records).error == nil)
        }
    }
}

private func makeEntry(_ slot: Int64) -> Entry { .command(Array("command of slot \(slot)".utf8)) }
