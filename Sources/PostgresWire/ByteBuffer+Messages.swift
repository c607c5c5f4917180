import NIOCore

extension ByteBuffer {
    /// Begins a message of this type; returns where it begins, for ``endMessage(_:)``.
    mutating func beginMessage(_ type: UInt8) -> Int {
        let start = writerIndex
        writeMultipleIntegers(type, UInt32(0))
        return start
    }

    /// Fills in the length of the message that began at `start`.
    mutating func endMessage(_ start: Int) {
        let length = writerIndex - start - 1
        precondition(length <= Int(Int32.max), "a message of \(length) bytes is longer than its length word can say")
        setInteger(UInt32(length), at: start + 1)
    }

    /// Text and the NUL that ends it. A NUL within ends the text there, as in C: the rest would be taken for something
    /// else by the other side.
    mutating func writeText(_ text: String) {
        var text = text
        text.withUTF8 { writeText(UnsafeRawBufferPointer($0)) }
    }

    /// As `writeText`, for bytes that are text already.
    mutating func writeText(_ bytes: UnsafeRawBufferPointer) {
        writeBytes(UnsafeRawBufferPointer(rebasing: bytes.prefix { $0 != 0 }))
        writeInteger(UInt8(0))
    }

    /// A value behind its length, -1 for NULL.
    mutating func writeValue(_ value: ByteBuffer?) {
        guard let value else {
            writeInteger(Int32(-1))
            return
        }
        writeInteger(Int32(value.readableBytes))
        writeImmutableBuffer(value)
    }

    mutating func writeCount(_ count: Int) {
        precondition(count <= Int(UInt16.max), "\(count) elements are more than a count of two bytes can say")
        writeInteger(UInt16(count))
    }

    mutating func writeFormats(_ formats: [FormatCode]) {
        writeCount(formats.count)
        for format in formats { writeInteger(format.rawValue) }
    }
}
