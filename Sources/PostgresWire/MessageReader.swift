import NIOCore

/// Reads the body of one message from front to end, with PostgreSQL's errors (pqformat.c). Never reads beyond the body.
struct MessageReader {
    private var body: ByteBuffer

    init(_ body: ByteBuffer) {
        self.body = body
    }

    /// How many bytes have not been read.
    var bytesLeft: Int { body.readableBytes }

    mutating func byte() throws(WireError) -> UInt8 {
        guard let byte = body.readInteger(as: UInt8.self) else { throw .noDataLeft }
        return byte
    }

    mutating func integer<Value: FixedWidthInteger>(as type: Value.Type = Value.self) throws(WireError) -> Value {
        guard let value = body.readInteger(as: type) else { throw .insufficientData }
        return value
    }

    /// A slice of the body.
    mutating func bytes(_ count: Int) throws(WireError) -> ByteBuffer {
        guard count >= 0, let bytes = body.readSlice(length: count) else { throw .insufficientData }
        return bytes
    }

    /// All that is left.
    mutating func rest() -> ByteBuffer {
        let rest = body
        body.moveReaderIndex(to: body.writerIndex)
        return rest
    }

    /// Text up to a NUL.
    mutating func string() throws(WireError) -> String {
        let read = body.withUnsafeReadableBytes { bytes -> (text: Result<String, WireError>, length: Int)? in
            guard let length = bytes.firstIndex(of: 0) else { return nil }
            let text = UnsafeRawBufferPointer(rebasing: bytes[..<length])
            if let string = String(validating: text, as: UTF8.self) { return (.success(string), length) }
            return (.failure(UTF8Check.error(for: text, at: UTF8Check.firstInvalid(in: text) ?? 0)), length)
        }
        guard let read else { throw .invalidString }
        body.moveReaderIndex(forwardBy: read.length + 1)
        return try read.text.get()
    }

    /// How many elements follow, each of at least `bytesEach`. A count that the body can't hold ends here, before
    /// anything is allocated for it.
    mutating func count(bytesEach: Int) throws(WireError) -> Int {
        let count = Int(try integer(as: UInt16.self))
        guard bytesLeft >= count * bytesEach else { throw .insufficientData }
        return count
    }

    /// A counted list of format codes.
    mutating func formats() throws(WireError) -> [FormatCode] {
        let count = try count(bytesEach: 2)
        var formats: [FormatCode] = []
        formats.reserveCapacity(count)
        for _ in 0..<count { formats.append(try format()) }
        return formats
    }

    mutating func format() throws(WireError) -> FormatCode {
        let code = try integer(as: Int16.self)
        guard let format = FormatCode(rawValue: code) else { throw .unknownFormat(code) }
        return format
    }

    /// A value behind its length, nil for NULL.
    mutating func value() throws(WireError) -> ByteBuffer? {
        let length = try integer(as: Int32.self)
        return length == -1 ? nil : try bytes(Int(length))
    }

    /// Nothing may follow.
    func end() throws(WireError) {
        guard bytesLeft == 0 else { throw .invalidFormat }
    }
}
