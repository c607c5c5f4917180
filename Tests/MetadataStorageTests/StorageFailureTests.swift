import Consensus
import Foundation
import Glibc
import Synchronization
import TestSupport
import Testing
import TransactionCore

@testable import MetadataStorage

/// Disks that are full or broken, and logs that are written anew.
@Suite struct StorageFailureTests {
    @Test("after a flush that failed nothing is called durable any more, though later ones would succeed")
    func failedFlush() async throws {
        let test = try TestStorage()
        let disk = FailingDisk()
        let (storage, _) = try test.open(calls: disk.calls)
        let rounds = Rounds(4)
        #expect(await storage.written(rounds.batches[0]).error == nil)
        disk.failsFlushes(with: EIO)
        let failure = await storage.written(rounds.batches[1]).error
        #expect(failure?.message.hasPrefix("could not flush ") == true)
        #expect(failure?.detail == "Input/output error")
        disk.repair()
        #expect(await storage.written(rounds.batches[2]).error == failure)
        #expect(await storage.written([]).error == failure)
        #expect(test.log.text.contains("critical storage failed"))
        await storage.close()
        // What the disk got of the rest nobody was told; a new process goes on with what it finds.
        let state = try await test.reopened()
        #expect(rounds.states[1...2].contains(state))
    }

    @Test("a full disk ends the storage with a hint, and what was durable is there when there is space")
    func fullDisk() async throws {
        let test = try TestStorage()
        let disk = FailingDisk()
        let (storage, _) = try test.open(calls: disk.calls)
        let rounds = Rounds(4)
        #expect(await storage.written(rounds.batches[0]).error == nil)
        // Half of the batch still fits.
        disk.takes(bytes: 30)
        let failure = await storage.written(rounds.batches[1]).error
        #expect(failure?.detail == "No space left on device")
        #expect(failure?.hint?.contains("make space") == true)
        await storage.close()
        // Nor does the next process start, before there is space for its log.
        #expect(throws: StorageError.self) { try test.open(calls: disk.calls) }
        disk.repair()
        #expect(try await test.reopened() == rounds.states[1])
        #expect(test.log.text.contains("a crash interrupted"))
    }

    @Test("a log that has grown is written anew: it stays small, and nothing is lost")
    func rewriting() async throws {
        let test = try TestStorage()
        let rounds = Rounds(1_000, commandBytes: 100)
        let (storage, _) = try test.open(rewriting: LogThread.Rewriting(bytesMin: 5_000, factor: 2))
        for batch in rounds.batches { #expect(await storage.written(batch).error == nil) }
        await storage.close()
        #expect(test.logs.count == 1)
        #expect(test.logs != ["\(test.path)/log.1"])
        #expect(test.log.text.contains("log written anew"))
        #expect(try await test.reopened() == rounds.states.last)
    }

    @Test("records go on to the old log while a new one is written, and are in both")
    func appendingMeanwhile() async throws {
        let test = try TestStorage()
        let rounds = Rounds(60, commandBytes: 100)
        let flush = PausableFlush(pausesOnly: ".new")
        let (storage, _) = try test.open(
            rewriting: LogThread.Rewriting(bytesMin: 2_000, factor: 2), calls: flush.calls)
        flush.pause()
        var round = 0
        while !flush.isWaiting {
            #expect(await storage.written(rounds.batches[round]).error == nil)
            round += 1
            if round == 30 { break }
        }
        #expect(await eventually { flush.isWaiting })
        for batch in rounds.batches[round..<40] { #expect(await storage.written(batch).error == nil) }
        // What a crash now would leave.
        let old = try LogContents(try LogDirectory.read("\(test.path)/log.1"), path: "log.1")
        #expect(old.state == rounds.states[40])
        flush.resume()
        #expect(await eventually { test.log.text.contains("log written anew") })
        for batch in rounds.batches[40...] { #expect(await storage.written(batch).error == nil) }
        await storage.close()
        #expect(try await test.reopened() == rounds.states.last)
    }

    @Test("a log that can't be written anew goes on as it is")
    func failedRewriting() async throws {
        let test = try TestStorage()
        let rounds = Rounds(60, commandBytes: 100)
        let disk = FailingDisk(only: ".new")
        let (storage, _) = try test.open(
            rewriting: LogThread.Rewriting(bytesMin: 2_000, factor: 2), calls: disk.calls)
        disk.failsFlushes(with: EIO)
        for batch in rounds.batches { #expect(await storage.written(batch).error == nil) }
        await storage.close()
        #expect(test.log.text.contains("warning the log could not be written anew"))
        #expect(test.logs == ["\(test.path)/log.1"])
        disk.repair()
        #expect(try await test.reopened() == rounds.states.last)
    }

    @Test("closing waits for a log that is being written anew, and for what came last")
    func closingMeanwhile() async throws {
        let test = try TestStorage()
        let rounds = Rounds(60, commandBytes: 100)
        let flush = PausableFlush(pausesOnly: ".new")
        let (storage, _) = try test.open(
            rewriting: LogThread.Rewriting(bytesMin: 2_000, factor: 2), calls: flush.calls)
        flush.pause()
        for batch in rounds.batches { storage.append(batch) }
        #expect(await eventually { flush.isWaiting })
        async let closed: Void = storage.close()
        #expect(throws: StorageError.self) { try test.open() }
        flush.resume()
        await closed
        #expect(try await test.reopened() == rounds.states.last)
    }
}

/// A disk that refuses what it is told to refuse.
private final class FailingDisk: Sendable {
    private struct State {
        var flushCode: Int32?
        var bytesLeft: Int?
    }

    private let state = Mutex(State())
    private let only: String

    /// - Parameter only: what the path of a file must contain for its calls to fail.
    init(only: String = "") {
        self.only = only
    }

    func failsFlushes(with code: Int32) { state.withLock { $0.flushCode = code } }

    func takes(bytes: Int) { state.withLock { $0.bytesLeft = bytes } }

    func repair() { state.withLock { $0 = State() } }

    private func concerns(_ descriptor: Int32) -> Bool {
        guard only != "" else { return true }
        let path = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/fd/\(descriptor)")
        return path?.contains(only) == true
    }

    var calls: FileCalls {
        FileCalls(
            write: { [self] descriptor, bytes, offset in
                let count = state.withLock { state -> Int in
                    guard concerns(descriptor), let left = state.bytesLeft else { return bytes.count }
                    defer { state.bytesLeft = max(0, left - bytes.count) }
                    return min(left, bytes.count)
                }
                if count == 0 {
                    errno = ENOSPC
                    return -1
                }
                return pwrite(descriptor, bytes.baseAddress, count, offset)
            },
            sync: { [self] descriptor in
                guard concerns(descriptor), let code = state.withLock({ $0.flushCode }) else {
                    return fdatasync(descriptor)
                }
                errno = code
                return -1
            })
    }
}
