import Consensus
import Foundation
import TestSupport
import Testing
import TransactionCore

@testable import MetadataStorage

/// What is made of a log's bytes, whole, cut and changed.
@Suite struct LogContentsTests {
    /// A log of some batches: its bytes without the space behind them, and how many of them it had after each batch.
    private struct WrittenLog {
        let rounds = Rounds(10)
        var bytes: [UInt8] = []
        var ends: [Int] = []

        /// The log begins with the state after `first` rounds.
        init(from first: Int = 0, generation: UInt64 = 1) throws {
            let directory = try TemporaryDirectory()
            let path = "\(directory.path)/log.1"
            var file = try LogFile(
                at: path, LogHeader(identity: identity, generation: generation), state: rounds.states[first],
                calls: FileCalls())
            defer { file.close() }
            ends.append(file.byteCount)
            for batch in rounds.batches[first...] {
                try file.append(RecordBatch.encode(batch))
                ends.append(file.byteCount)
            }
            bytes = Array(try LogDirectory.read(LogDirectory.temporary(path)).prefix(file.byteCount))
        }
    }

    @Test("the checksum is CRC-32C's, however the bytes are cut")
    func checksum() {
        // RFC 3720 §B.4, and the check value of the catalogue of CRC algorithms.
        #expect(CRC32C.checksum(Array("123456789".utf8)) == 0xE306_9283)
        #expect(CRC32C.checksum([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        #expect(CRC32C.checksum([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
        #expect(CRC32C.checksum(UInt8(0)..<32) == 0x46DD_794E)
        let bytes = Array(UInt8(0)..<100)
        for cut in 0...100 {
            #expect(
                CRC32C.checksum(bytes[cut...], after: CRC32C.checksum(bytes[..<cut])) == CRC32C.checksum(bytes))
        }
    }

    @Test("a log says what was written to it, also one that begins with a state")
    func whole() throws {
        for first in [0, 3, 10] {
            let log = try WrittenLog(from: first)
            let contents = try LogContents(log.bytes, path: "log")
            #expect(contents.state == log.rounds.states.last)
            #expect(contents.header == LogHeader(identity: identity, generation: 1))
            #expect(contents.tornBytes == 0)
            #expect(try LogContents(log.bytes + [UInt8](repeating: 0, count: 100), path: "log").tornBytes == 0)
        }
    }

    @Test("a log cut off anywhere says what the whole batches said, and one cut in what it began with is refused")
    func truncation() throws {
        let log = try WrittenLog()
        for count in 0..<log.bytes.count {
            // With nothing behind the cut, and with space.
            for space in [0, 40] {
                let bytes = log.bytes.prefix(count) + [UInt8](repeating: 0, count: space)
                // What was cut off may have been zeros, too.
                let left = zip(bytes, log.bytes).prefix { $0 == $1 }.count
                guard let whole = log.ends.lastIndex(where: { $0 <= left }) else {
                    #expect(throws: StorageError.self, "\(count) bytes") { try LogContents(Array(bytes), path: "log") }
                    continue
                }
                let contents = try LogContents(Array(bytes), path: "log")
                #expect(contents.state == log.rounds.states[whole], "\(count) bytes")
                #expect(contents.tornBytes == 0 || log.ends[whole] < count)
            }
        }
    }

    @Test("a changed byte is found: the log is refused, or without its last batch when it is there")
    func changedBytes() throws {
        let log = try WrittenLog()
        let lastBegin = log.ends[log.ends.count - 2]
        for index in log.bytes.indices {
            for bit in UInt8(0)..<8 {
                var bytes = log.bytes
                bytes[index] ^= 1 << bit
                let contents = Result { () throws(StorageError) in try LogContents(bytes, path: "log") }
                if index < lastBegin {
                    #expect(throws: StorageError.self, "byte \(index), bit \(bit)") { try contents.get() }
                } else {
                    let cut = try contents.get()
                    #expect(cut.state == log.rounds.states[9], "byte \(index), bit \(bit)")
                    #expect(cut.tornBytes == log.bytes.count - lastBegin)
                }
            }
        }
    }

    @Test("a bad batch with others behind it is no crash's doing: it is refused by file and place")
    func corruptMiddle() throws {
        let log = try WrittenLog()
        var bytes = log.bytes
        // A whole batch is gone.
        for index in log.ends[3]..<log.ends[4] { bytes[index] = 0 }
        let error = #expect(throws: StorageError.self) { try LogContents(bytes, path: "/data/log.1") }
        #expect(error?.message == "/data/log.1 is corrupt at byte \(log.ends[3])")
        #expect(error?.detail == "what was written after it begins at byte \(log.ends[4])")
    }

    @Test("a batch moved, repeated or taken from another log is refused")
    func movedBatches() throws {
        let (log, other) = (try WrittenLog(), try WrittenLog(generation: 2))
        // The last one once more: nobody can tell that this is not a crash's doing.
        let repeated = try LogContents(log.bytes + log.bytes[log.ends[9]...], path: "log")
        #expect(repeated.state == log.rounds.states.last && repeated.tornBytes > 0)
        let third = log.ends[2]..<log.ends[3]
        for stranger in [log.bytes[log.ends[0]..<log.ends[1]], other.bytes[third]] {
            var bytes = log.bytes
            #expect(stranger.count == third.count)
            bytes.replaceSubrange(third, with: stranger)
            #expect(throws: StorageError.self) { try LogContents(bytes, path: "log") }
        }
    }

    @Test("what a newer version wrote is refused as such, and what is no log, too")
    func strangers() throws {
        func log(_ payloads: [[UInt8]]) -> [UInt8] {
            var bytes = LogFrame.mark
            var previous: UInt32 = 0
            for payload in payloads {
                let frame = LogFrame.make(payload, at: bytes.count, previous: previous)
                bytes += frame.bytes
                previous = frame.check
            }
            return bytes
        }
        let header = LogHeader(identity: identity, generation: 1).encoded
        let state = RecordBatch.encode(DurableState(membership: threeNodes).firstBatch)
        #expect(try LogContents(log([header, state]), path: "log").state.isFresh)
        // A header, and a record, of version 2.
        for newer in [log([[2] + header.dropFirst(), state]), log([header, state, [1, 3, 2, 3, 0]])] {
            let error = #expect(throws: StorageError.self) { try LogContents(newer, path: "log") }
            #expect(error?.message == "log was written by a newer version")
        }
        // Checks that fit, around what nobody writes.
        #expect(throws: StorageError.self) { try LogContents(log([header, state, [1, 3, 1, 9, 0]]), path: "log") }
        #expect(throws: StorageError.self) { try LogContents(log([header, state, [1]]), path: "log") }
        #expect(throws: StorageError.self) { try LogContents(log([header, RecordBatch.encode([])]), path: "log") }
        let stranger = #expect(throws: StorageError.self) {
            try LogContents(Array("SQLite format 3".utf8), path: "log")
        }
        #expect(stranger?.message == "log is no log of Meridian's")
    }
}
