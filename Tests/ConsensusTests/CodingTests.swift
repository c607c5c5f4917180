import SimulationKit
import Testing
import TransactionCore

@testable import Consensus

/// What messages and records are in bytes, and what other bytes are not.
@Suite struct CodingTests {
    @Test("what is written is read again, every message and record of it", arguments: UInt64(1)...100)
    func roundTrip(seed: UInt64) throws {
        var values = RandomValues(seed: seed)
        for message in values.messages() { #expect(try Message(encoded: message.encoded) == message) }
        for record in values.records() { #expect(try DurableRecord(encoded: record.encoded) == record) }
    }

    @Test("bytes cut short anywhere are refused as such, and so is one byte too many", arguments: UInt64(1)...10)
    func truncation(seed: UInt64) {
        var values = RandomValues(seed: seed)
        for message in values.messages() {
            checkCut(message.encoded) { (bytes) throws(MalformedBytes) in _ = try Message(encoded: bytes) }
        }
        for record in values.records() {
            checkCut(record.encoded) { (bytes) throws(MalformedBytes) in _ = try DurableRecord(encoded: bytes) }
        }
    }

    private func checkCut(_ bytes: [UInt8], _ decode: ([UInt8]) throws(MalformedBytes) -> Void) {
        for count in 0..<bytes.count {
            #expect { try decode(Array(bytes.prefix(count))) } throws: {
                ($0 as? MalformedBytes)?.reason == .truncated
            }
        }
        #expect(throws: MalformedBytes(reason: .trailing, offset: bytes.count)) { try decode(bytes + [0]) }
    }

    @Test(
        "changed bytes are refused or are some other value's, and no value has two forms", arguments: UInt64(1)...100)
    func changedBytes(seed: UInt64) {
        var values = RandomValues(seed: seed)
        for message in values.messages() {
            for _ in 0..<40 {
                let bytes = changed(message.encoded, &values.random)
                if let decoded = try? Message(encoded: bytes) { #expect(decoded.encoded == bytes) }
            }
        }
        for record in values.records() {
            for _ in 0..<40 {
                let bytes = changed(record.encoded, &values.random)
                if let decoded = try? DurableRecord(encoded: bytes) { #expect(decoded.encoded == bytes) }
            }
        }
    }

    private func changed(_ bytes: [UInt8], _ random: inout SeededGenerator) -> [UInt8] {
        var bytes = bytes
        for _ in 0...Int.random(in: 0...2, using: &random) {
            // Mostly at the front, where the numbers are.
            let index =
                min(
                    bytes.count, 2 + Int.random(in: 0..<Int.random(in: 1...bytes.count, using: &random), using: &random)
                ) - 1
            switch Int.random(in: 0...3, using: &random) {
            case 0: bytes[index] ^= 1 << UInt8.random(in: 0...7, using: &random)
            case 1: bytes[index] = [0, 0x7F, 0x80, 0xFF].randomElement(using: &random)!
            case 2: bytes.insert(.random(in: 0...255, using: &random), at: index)
            default: if bytes.count > 1 { bytes.remove(at: index) }
            }
        }
        return bytes
    }

    @Test("a replica lives through every message that can be decoded", arguments: UInt64(1)...50)
    func hostileMessages(seed: UInt64) {
        var values = RandomValues(seed: seed)
        let nodes = (1...3).map { NodeID(rawValue: $0)! }
        let now = TimestampInterval(earliest: Timestamp(rawValue: 1_000), latest: Timestamp(rawValue: 2_000))
        var replica = Replica(
            node: nodes[0], durable: DurableState(membership: Membership(voters: NodeSet(nodes))), seed: seed, at: now)
        for _ in 0..<20 {
            for message in values.messages() {
                guard let decoded = try? Message(encoded: changed(message.encoded, &values.random)) else { continue }
                replica.received(decoded, from: nodes[1], at: now)
                _ = replica.takeOrders(at: now)
            }
        }
        #expect(replica.durable.promised > .zero)
    }

    @Test("a count that the bytes do not warrant is refused before anything is made of it")
    func counts() {
        // A promise with 2^60 entries, a command of 2^40 bytes.
        var promise = ByteWriter()
        for byte: UInt8 in [1, 3, 1, 1] { promise.byte(byte) }
        promise.number(1 << 60)
        #expect(throws: MalformedBytes.self) { try Message(encoded: promise.bytes) }
        var learned = ByteWriter()
        for byte: UInt8 in [1, 4, 1, 1] { learned.byte(byte) }
        learned.number(1 << 40)
        #expect(throws: MalformedBytes.self) { try DurableRecord(encoded: learned.bytes) }
    }

    @Test("kinds and versions that are not known are refused by name")
    func unknown() {
        #expect(throws: MalformedBytes(reason: .unknownKind(12), offset: 2)) { try Message(encoded: [1, 12]) }
        #expect(throws: MalformedBytes(reason: .unknownKind(6), offset: 2)) { try DurableRecord(encoded: [1, 6]) }
        #expect(throws: MalformedBytes(reason: .unknownVersion(2), offset: 1)) { try Message(encoded: [2, 8, 1]) }
        #expect(throws: MalformedBytes(reason: .unknownVersion(0), offset: 1)) { try Message(encoded: [0, 8, 1]) }
    }

    @Test("numbers beyond what a replica can count with are refused, and so are nodes out of their order")
    func ranges() {
        let large = ByteWriter.make { $0.number((1 << 62) + 1) }
        #expect(throws: MalformedBytes.self) { try Message(encoded: [1, 8] + large) }
        #expect(throws: MalformedBytes.self) { try Message(encoded: [1, 2] + large + [1]) }
        // Node 1024.
        #expect(throws: MalformedBytes.self) { try Message(encoded: [1, 2, 1, 0x80, 8]) }
        #expect(throws: MalformedBytes.self) { try DurableRecord(encoded: [1, 4, 1, 2, 2, 2, 1, 0]) }
        // A voter among the learners.
        #expect(throws: MalformedBytes.self) { try DurableRecord(encoded: [1, 4, 1, 2, 1, 1, 1, 1]) }
        // Zero in two bytes.
        #expect(throws: MalformedBytes.self) { try Message(encoded: [1, 8, 0x80, 0]) }
    }

    @Test("the forms of version 1 stay what they are")
    func fixedForms() {
        let node = NodeID(rawValue: 300)!
        let ballot = Ballot(round: 5, node: node)
        let membership = Membership(voters: [NodeID(rawValue: 1)!, node], learners: [NodeID(rawValue: 2)!])
        let accept = Message.Accept(
            ballot: ballot, first: Slot(rawValue: 7), entries: [.noOperation, .command([9, 8])],
            chosenUpTo: Slot(rawValue: 6), round: 128, leaseExpiry: Timestamp(rawValue: 0x0102_0304_0506_0708))
        #expect(
            Message.accept(accept).encoded == [
                1, 4, 5, 0xAC, 2, 7, 2, 0, 1, 2, 9, 8, 6, 0x80, 1, 8, 7, 6, 5, 4, 3, 2, 1,
            ])
        #expect(Message.release(ballot, successor: node).encoded == [1, 11, 5, 0xAC, 2, 1, 0xAC, 2])
        #expect(
            DurableRecord.snapshot(Snapshot(slot: Slot(rawValue: 3), membership: membership, state: [4])).encoded == [
                1, 5, 3, 2, 1, 0xAC, 2, 1, 2, 1, 4,
            ])
    }
}

extension ByteWriter {
    fileprivate static func make(_ write: (inout ByteWriter) -> Void) -> [UInt8] {
        var writer = ByteWriter()
        write(&writer)
        return writer.bytes
    }
}
