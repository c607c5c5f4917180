import SimulationKit
import Testing
import TransactionCore
import TwoPhaseCommit

@testable import TransactionEngine

/// What engines' messages are in bytes, and what other bytes are not.
@Suite struct PeerMessageTests {
    private static let shards = ["a", "shard_2", String(repeating: "z", count: ShardID.lengthMax)].map { ShardID($0)! }

    private static let messages: [PeerMessage] = {
        let parts = [(1025, 0), (Int64.max, 1), (0, 2)].map {
            ClosedTimestamps.TimestampOnShard(Timestamp(rawValue: $0.0), shards[$0.1])
        }
        let reports: [ClosedTimestamps.Report.Promise] = [
            .silent(newest: Timestamp(rawValue: 7)), .closed(upTo: Timestamp(rawValue: 1 << 60), inFlight: []),
            .closed(upTo: .zero, inFlight: parts),
        ]
        let timestamps: [ClosedTimestamps.Message] =
            [
                .activate(0), .activate(.max), .activated(3, closed: Timestamp(rawValue: 5)),
                .close(round: 1 << 40, upTo: Timestamp(rawValue: .max)), .applied([]), .applied(parts),
            ]
            + reports.map {
                .report(
                    ClosedTimestamps.Report(
                        activity: 1, round: 300, strongReadTimestamp: Timestamp(rawValue: 9), promise: $0))
            }
        let catalog: [CatalogHolds.Message] = [.ask, .hold(1), .held(.max), .released(0)]
        let sessions = [SessionID(shards[0], 1), SessionID(shards[1], .max), SessionID(shards[2], -1)]
        return timestamps.map { .timestamps($0) } + catalog.map { .catalog($0) } + [
            .findOwners([]), .findOwners(sessions), .deadlock([1, .max]),
            .owners(sessions.map { PeerMessage.SessionOwner(session: $0, number: 1 << 62) }),
        ]
    }()

    @Test("what is written is read again", arguments: messages)
    func roundTrip(message: PeerMessage) throws {
        #expect(try PeerMessage(encoded: message.encoded) == message)
    }

    @Test("bytes cut short anywhere are refused, and so is one byte too many", arguments: messages)
    func truncation(message: PeerMessage) {
        let bytes = message.encoded
        for count in bytes.indices {
            #expect(throws: MalformedBytes.self) { try PeerMessage(encoded: Array(bytes[..<count])) }
        }
        #expect(throws: MalformedBytes.self) { try PeerMessage(encoded: bytes + [0]) }
    }

    @Test("any other bytes are read as a message that is written the same way, or refused", arguments: UInt64(1)...50)
    func garbage(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        for message in Self.messages {
            var bytes = message.encoded
            bytes[Int.random(in: bytes.indices, using: &random)] = UInt8.random(in: 0 ... .max, using: &random)
            if let read = try? PeerMessage(encoded: bytes) { #expect(read.encoded == bytes) }
        }
    }
}
