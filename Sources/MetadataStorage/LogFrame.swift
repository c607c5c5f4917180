/// How a log's bytes are put together.
///
/// A log is its mark and then frames: the header's, the state's that the log begins with, and one for each batch of
/// records. A batch is written only when the one before is durable, so of all that can be wrong with the bytes a crash
/// explains just one thing, a last frame that is not whole.
///
///     length     4 bytes  of the payload, never 0
///     previous   4 bytes  the check of the frame before
///     head check 4 bytes  CRC-32C of the frame's place in the file (8 bytes), length and previous
///     check      4 bytes  CRC-32C of all that and the payload
///     payload
///
/// All numbers have their lowest byte first. The head's own check tells a frame that was begun from other bytes.
enum LogFrame {
    static let headBytes = 16
    /// Whole state machines are kept in a frame; more than this is a mistake.
    static let payloadBytesMax = 1 << 30

    /// A log's first bytes.
    static let mark = Array("meridlog".utf8)

    /// The frame of `payload` at a place in the file, and its check.
    static func make(_ payload: [UInt8], at offset: Int, previous: UInt32) -> (bytes: [UInt8], check: UInt32) {
        let headCheck = headCheck(offset: offset, length: UInt32(payload.count), previous: previous)
        let check = CRC32C.checksum(payload, after: headCheck)
        var bytes: [UInt8] = []
        bytes.reserveCapacity(headBytes + payload.count)
        for number in [UInt32(payload.count), previous, headCheck, check] {
            withUnsafeBytes(of: number.littleEndian) { bytes.append(contentsOf: $0) }
        }
        bytes.append(contentsOf: payload)
        return (bytes, check)
    }

    /// What stands at a place of a log.
    enum Found {
        case frame(payload: ArraySlice<UInt8>, check: UInt32)
        /// The log ends here; what follows is space that was got in advance.
        case end
        case broken
    }

    static func find(in bytes: [UInt8], at offset: Int, previous: UInt32) -> Found {
        guard let head = Head(in: bytes, at: offset) else {
            return bytes[min(offset, bytes.count)...].allSatisfy { $0 == 0 } ? .end : .broken
        }
        let start = offset + headBytes
        guard head.previous == previous, bytes.count - start >= head.length else { return .broken }
        let payload = bytes[start..<start + head.length]
        guard CRC32C.checksum(payload, after: head.headCheck) == head.check else { return .broken }
        return .frame(payload: payload, check: head.check)
    }

    /// The place of the first frame behind `offset` that was begun.
    static func findHead(in bytes: [UInt8], after offset: Int) -> Int? {
        guard offset + 1 + headBytes <= bytes.count else { return nil }
        return (offset + 1...bytes.count - headBytes).first { Head(in: bytes, at: $0) != nil }
    }

    private struct Head {
        let length: Int
        let previous: UInt32
        let headCheck: UInt32
        let check: UInt32

        /// Nil where there is none.
        init?(in bytes: [UInt8], at offset: Int) {
            guard offset + headBytes <= bytes.count else { return nil }
            func number(_ index: Int) -> UInt32 {
                bytes.withUnsafeBytes {
                    UInt32(littleEndian: $0.loadUnaligned(fromByteOffset: offset + 4 * index, as: UInt32.self))
                }
            }
            let length = number(0)
            guard 1...UInt32(payloadBytesMax) ~= length else { return nil }
            (self.length, previous, headCheck, check) = (Int(length), number(1), number(2), number(3))
            guard headCheck == LogFrame.headCheck(offset: offset, length: length, previous: previous) else {
                return nil
            }
        }
    }

    private static func headCheck(offset: Int, length: UInt32, previous: UInt32) -> UInt32 {
        withUnsafeBytes(of: (UInt64(offset).littleEndian, length.littleEndian, previous.littleEndian)) {
            CRC32C.checksum($0)
        }
    }
}
