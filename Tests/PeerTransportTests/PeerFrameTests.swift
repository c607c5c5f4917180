import NIOCore
import Testing
import TransactionCore

@testable import PeerTransport

/// What connections between nodes carry, in bytes.
@Suite struct PeerFrameTests {
    private static let hello = PeerHello(versions: 2...5, sender: nodes[0], recipient: nodes[1], cluster: "größer")
    private static let frames: [PeerFrame] = [
        .hello(hello), .welcome(version: 3), .refusal("no"), .ping, .pong, .message(kind: 7, [1, 2, 3]),
        .message(kind: 0, []), .request(id: .max, kind: 9, [4]), .answer(id: 1, [UInt8](repeating: 5, count: 900)),
    ]

    private func decode(_ bytes: [UInt8], lengthMax: Int = 1_000) throws -> [PeerFrame] {
        var buffer = ByteBuffer(bytes: bytes)
        var frames: [PeerFrame] = []
        while let frame = try PeerFrame.next(from: &buffer, lengthMax: lengthMax) { frames.append(frame) }
        return frames
    }

    @Test("frames are read as they were written, whole, one behind the other, and one byte at a time")
    func roundTrip() throws {
        let bytes = Self.frames.flatMap { Array($0.encoded.readableBytesView) }
        #expect(try decode(bytes) == Self.frames)
        var buffer = ByteBuffer()
        var read: [PeerFrame] = []
        for byte in bytes {
            buffer.writeInteger(byte)
            if let frame = try PeerFrame.next(from: &buffer, lengthMax: 1_000) { read.append(frame) }
        }
        #expect(read == Self.frames)
        for frame in Self.frames { #expect(frame.encoded.readableBytes <= 917) }
    }

    @Test("a frame that is too long, too short for its type, or of no type is refused")
    func malformed() {
        let answer = Array(PeerFrame.answer(id: 1, [UInt8](repeating: 5, count: 900)).encoded.readableBytesView)
        #expect(throws: PeerFrame.Malformed(reason: "a frame of 909 bytes")) { try decode(answer, lengthMax: 908) }
        #expect(throws: PeerFrame.Malformed(reason: "a frame of 0 bytes")) { try decode([0, 0, 0, 0]) }
        #expect(throws: PeerFrame.Malformed(reason: "a frame of 4294967295 bytes")) {
            try decode([255, 255, 255, 255])
        }
        #expect(throws: PeerFrame.Malformed(reason: "a frame of type 9")) { try decode([0, 0, 0, 1, 9]) }
        for frame in Self.frames {
            let whole = Array(frame.encoded.readableBytesView.dropFirst(4))
            for count in 1..<whole.count {
                // What it begins with may be another frame of the kind, and nothing else.
                let cut = try? decode([0, 0, UInt8(count >> 8), UInt8(count & 0xFF)] + whole.prefix(count))
                #expect(cut == nil || cut?.first != frame)
            }
        }
        var stranger = Array(PeerFrame.hello(Self.hello).encoded.readableBytesView)
        stranger[5] = UInt8(ascii: "M")
        #expect(throws: PeerFrame.Malformed(reason: "another protocol")) { try decode(stranger) }
    }

    @Test("a hello that a newer version has made longer is understood")
    func longerHello() throws {
        var bytes = Array(PeerFrame.hello(Self.hello).encoded.readableBytesView) + [1, 2, 3]
        bytes[3] += 3
        #expect(try decode(bytes) == [.hello(Self.hello)])
    }

    @Test("a node answers a hello by the newest version that both speak, or says why not")
    func greeting() {
        var configuration = PeerConfiguration(cluster: "größer", node: nodes[1])
        let answers: [(ClosedRange<UInt16>, PeerFrame)] = [
            (1...3, .welcome(version: 3)), (5...9, .welcome(version: 5)), (3...4, .welcome(version: 4)),
            (6...7, .refusal("this node speaks versions 6 to 7, and not 2 to 5")),
        ]
        for (versions, answer) in answers {
            configuration.versions = versions
            #expect(Self.hello.answer(configuration) == answer)
        }
        #expect(
            Self.hello.answer(PeerConfiguration(cluster: "größer", node: nodes[2]))
                == .refusal("this is node 3, and not 2, which node 1 wants"))
        #expect(
            Self.hello.answer(PeerConfiguration(cluster: "other", node: nodes[1]))
                == .refusal("this is a node of cluster other, and not of größer"))
    }
}
