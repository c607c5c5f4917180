import Consensus
import Dispatch
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing
import TransactionCore

@testable import MetadataStorage

/// A node's storage on a real disk.
@Suite struct MetadataStorageTests {
    @Test("what was durable is there for the next process, the first membership too, and may be added to")
    func reopening() async throws {
        let test = try TestStorage()
        let rounds = Rounds(20)
        #expect(try await test.reopened() == rounds.states[0])
        for round in 0..<20 {
            // Only a new directory asks who takes part.
            let (storage, state) = try test.open(membership: Membership(voters: [node3]))
            #expect(state == rounds.states[round])
            #expect(await storage.written(rounds.batches[round]).error == nil)
            await storage.close()
        }
        #expect(try await test.reopened() == rounds.states.last)
        #expect(test.logs.count == 1)
    }

    @Test("callbacks come in the order of the records, on the loop, and closing waits for them all")
    func order() async throws {
        let test = try TestStorage()
        let (storage, _) = try test.open()
        let rounds = Rounds(300)
        let order = Mutex<[Int]>([])
        for (index, batch) in rounds.batches.enumerated() {
            storage.append(batch) { outcome in
                #expect(outcome.error == nil && test.loop.isCurrent)
                order.withLock { $0.append(index) }
            }
        }
        await storage.close()
        #expect(await eventually { order.withLock { $0.count } == 300 })
        #expect(order.withLock { $0 } == Array(0..<300))
        #expect(await storage.written([]).error?.message == "the storage is closed")
        #expect(try await test.reopened() == rounds.states.last)
    }

    @Test("nothing is called durable before its flush has returned, and what waits shares the next one")
    func sharedFlush() async throws {
        let test = try TestStorage()
        let flush = PausableFlush()
        let (storage, _) = try test.open(calls: flush.calls)
        let rounds = Rounds(100)
        let durable = Mutex(0)
        flush.pause()
        for batch in rounds.batches { storage.append(batch) { _ in durable.withLock { $0 += 1 } } }
        #expect(await eventually { flush.isWaiting })
        #expect(durable.withLock { $0 } == 0)
        let before = flush.count
        flush.resume()
        #expect(await storage.written([]).error == nil)
        #expect(durable.withLock { $0 } == 100)
        // One was under way, and the others had one; or two, where the first went off alone.
        #expect(flush.count - before <= 2)
        await storage.close()
    }

    @Test("one process at a time uses a directory, and only its own node's")
    func exclusive() async throws {
        let test = try TestStorage()
        let (storage, _) = try test.open()
        let taken = #expect(throws: StorageError.self) { try test.open() }
        #expect(taken?.message == "another process uses \(test.path)")
        await storage.close()
        for stranger in [StorageIdentity(cluster: "other", node: node1), StorageIdentity(cluster: "test", node: node2)]
        {
            let error = #expect(throws: StorageError.self) { try test.open(stranger) }
            #expect(error?.message.hasSuffix("belongs to another node or cluster") == true)
        }
        // None of that has locked it.
        #expect(try await test.reopened() == DurableState(membership: threeNodes))
    }

    @Test("what a crash left of the last batch is left out, and said so; what was before it is there")
    func tornTail() async throws {
        let test = try TestStorage()
        let rounds = Rounds(8)
        let (storage, _) = try test.open()
        for batch in rounds.batches.dropLast() { #expect(await storage.written(batch).error == nil) }
        await storage.close()
        let log = try #require(test.logs.first)
        let written = try Data(contentsOf: URL(fileURLWithPath: log))
        let end = written.lastIndex { $0 != 0 }! + 1
        var torn = written
        torn.replaceSubrange(end..<end + 60, with: [UInt8](repeating: 7, count: 60))
        try torn.write(to: URL(fileURLWithPath: log))
        #expect(try await test.reopened() == rounds.states[7])
        #expect(test.log.text.contains("warning a crash interrupted the last write to the log"))
    }

    @Test("corruption keeps the node from starting, and the log stays as it is")
    func corruption() async throws {
        let test = try TestStorage()
        let (storage, _) = try test.open()
        for batch in Rounds(8).batches { #expect(await storage.written(batch).error == nil) }
        await storage.close()
        let log = try #require(test.logs.first)
        var bytes = try Data(contentsOf: URL(fileURLWithPath: log))
        bytes[150] ^= 1
        try bytes.write(to: URL(fileURLWithPath: log))
        for _ in 0..<2 {
            let error = #expect(throws: StorageError.self) { try test.open() }
            #expect(error?.message.hasPrefix("\(log) is corrupt at byte") == true)
        }
        #expect(try Data(contentsOf: URL(fileURLWithPath: log)) == bytes)
    }

    @Test("of several logs the newest counts; those that had not got their name are none")
    func severalLogs() async throws {
        let test = try TestStorage()
        let rounds = Rounds(4)
        let (storage, _) = try test.open()
        #expect(await storage.written(rounds.batches[0]).error == nil)
        await storage.close()
        let older = try Data(contentsOf: URL(fileURLWithPath: try #require(test.logs.first)))
        let (again, _) = try test.open()
        #expect(await again.written(rounds.batches[1]).error == nil)
        await again.close()
        // A crash before the older one was deleted, and one while the next was written.
        try older.write(to: URL(fileURLWithPath: "\(test.path)/log.1"))
        try Data("meri".utf8).write(to: URL(fileURLWithPath: "\(test.path)/log.3.new"))
        #expect(test.logs.count == 3)
        #expect(try await test.reopened() == rounds.states[2])
        #expect(test.logs == ["\(test.path)/log.3"])
        // A log under another's name.
        try FileManager.default.moveItem(atPath: "\(test.path)/log.3", toPath: "\(test.path)/log.4")
        let error = #expect(throws: StorageError.self) { try test.open() }
        #expect(error?.message == "\(test.path)/log.4 was renamed")
    }
}

/// Flushes that wait when they are told to.
final class PausableFlush: Sendable {
    private struct State {
        var isPaused = false
        var count = 0
        var waitingCount = 0
    }

    private let state = Mutex(State())
    private let resumed = DispatchSemaphore(value: 0)
    private let pausesOnly: String

    /// - Parameter pausesOnly: what the file's path must contain for a pause.
    init(pausesOnly: String = "") {
        self.pausesOnly = pausesOnly
    }

    var count: Int { state.withLock { $0.count } }
    var isWaiting: Bool { state.withLock { $0.waitingCount > 0 } }

    func pause() { state.withLock { $0.isPaused = true } }

    func resume() {
        let waitingCount = state.withLock { state in
            state.isPaused = false
            defer { state.waitingCount = 0 }
            return state.waitingCount
        }
        for _ in 0..<waitingCount { resumed.signal() }
    }

    var calls: FileCalls {
        FileCalls(sync: { [self] descriptor in
            let path = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(descriptor)")
            let waits = state.withLock { state in
                state.count += 1
                guard state.isPaused, path?.contains(pausesOnly) == true || pausesOnly == "" else { return false }
                state.waitingCount += 1
                return true
            }
            if waits { resumed.wait() }
            return fdatasync(descriptor)
        })
    }
}
