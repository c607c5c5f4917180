import Consensus
import EventLoops
import Foundation
import Logging
import Synchronization
import TestSupport
import TransactionCore

@testable import MetadataStorage

let (node1, node2, node3) = (NodeID(rawValue: 1)!, NodeID(rawValue: 2)!, NodeID(rawValue: 3)!)
let threeNodes = Membership(voters: [node1, node2, node3])
let identity = StorageIdentity(cluster: "test", node: node1)

/// The records of some rounds of consensus, each of which is a batch; the states before, between and after them.
struct Rounds {
    var batches: [[DurableRecord]] = []
    var states = [DurableState(membership: threeNodes)]

    init(_ count: Int, commandBytes: Int = 20) {
        for round in 1...count { append(round, commandBytes: commandBytes) }
    }

    private mutating func append(_ round: Int, commandBytes: Int) {
        let ballot = Ballot(round: UInt64(1 + round / 4), node: node2)
        let slot = Slot(rawValue: Int64(round))
        var records: [DurableRecord] = round % 4 == 0 ? [.promised(ballot)] : []
        let command = Entry.command([UInt8](repeating: UInt8(truncatingIfNeeded: round), count: commandBytes))
        records.append(.accepted(AcceptedEntry(slot: slot, ballot: ballot, entry: command)))
        if round % 2 == 0 { records.append(.chosenUpTo(slot.previous)) }
        if round % 10 == 0 {
            records.append(.snapshot(Snapshot(slot: slot.previous, membership: threeNodes, state: Array("state".utf8))))
        }
        var state = states.last!
        for record in records { state.append(record) }
        batches.append(records)
        states.append(state)
    }
}

/// A directory, and the storage in it as long as it is open.
final class TestStorage: Sendable {
    let directory: TemporaryDirectory
    let loop: EventLoops.EventLoop
    let log = RecordingLog()

    init() throws {
        directory = try TemporaryDirectory()
        loop = try EventLoop(name: "storage-test")
    }

    deinit { loop.shutdown() }

    var path: String { "\(directory.path)/node" }

    /// The paths of the logs that are there.
    var logs: [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        return names.filter { $0.hasPrefix("log.") }.sorted().map { "\(path)/\($0)" }
    }

    func open(
        _ identity: StorageIdentity = identity, membership: Membership = threeNodes,
        rewriting: LogThread.Rewriting = .init(), calls: FileCalls = .init()
    ) throws -> (storage: MetadataStorage, state: DurableState) {
        try MetadataStorage.open(
            directory: path, identity: identity, membership: membership, callbacksOn: loop, logger: log.logger,
            rewriting: rewriting, calls: calls)
    }

    /// What a new process would find.
    func reopened() async throws -> DurableState {
        let (storage, state) = try open()
        await storage.close()
        return state
    }
}

extension MetadataStorage {
    /// Ends when the records are durable.
    func written(_ records: [DurableRecord]) async -> Outcome {
        await withCheckedContinuation { continuation in
            append(records) { continuation.resume(returning: $0) }
        }
    }
}

extension Result where Success == Void, Failure == StorageError {
    var error: StorageError? {
        if case .failure(let error) = self { error } else { nil }
    }
}
