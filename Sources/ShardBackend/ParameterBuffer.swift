/// Lays parameters out as libpq wants them, in memory that a connection uses again and again.
struct ParameterBuffer {
    /// The arrays that `PQsendQueryParams` and `PQsendQueryPrepared` take; valid within the call they are given to.
    struct Arrays {
        let count: Int32
        let values: UnsafePointer<UnsafePointer<CChar>?>?
        let lengths: UnsafePointer<Int32>?
        let formats: UnsafePointer<Int32>?
    }

    private var bytes: [UInt8] = []
    /// Where each value starts in `bytes`; nil for NULL.
    private var starts: [Int?] = []
    private var lengths: [Int32] = []
    private var formats: [Int32] = []

    /// Calls `body` with `parameters` laid out.
    mutating func withArrays<Value>(of parameters: [SQLParameter], _ body: (Arrays) -> Value) -> Value {
        guard !parameters.isEmpty else { return body(Arrays(count: 0, values: nil, lengths: nil, formats: nil)) }
        bytes.removeAll(keepingCapacity: true)
        starts.removeAll(keepingCapacity: true)
        lengths.removeAll(keepingCapacity: true)
        formats.removeAll(keepingCapacity: true)
        for parameter in parameters { append(parameter) }
        return withUnsafeTemporaryAllocation(of: UnsafePointer<CChar>?.self, capacity: parameters.count) { values in
            bytes.withUnsafeBytes { bytes in
                for (index, start) in starts.enumerated() {
                    values[index] = start.flatMap {
                        bytes.baseAddress?.advanced(by: $0).assumingMemoryBound(to: CChar.self)
                    }
                }
                return lengths.withUnsafeBufferPointer { lengths in
                    formats.withUnsafeBufferPointer { formats in
                        body(
                            Arrays(
                                count: Int32(values.count), values: values.baseAddress.map { UnsafePointer($0) },
                                lengths: lengths.baseAddress, formats: formats.baseAddress))
                    }
                }
            }
        }
    }

    private mutating func append(_ parameter: SQLParameter) {
        let start = bytes.count
        var format: Int32 = 0
        switch parameter {
        case .null: break
        case .text(let text): bytes.append(contentsOf: text.utf8)
        case .int64(let number): append(decimal: number)
        case .double(let number): bytes.append(contentsOf: number.description.utf8)
        case .bool(let bool): bytes.append(bool ? UInt8(ascii: "t") : UInt8(ascii: "f"))
        case .bytes(let value):
            bytes.append(contentsOf: value)
            format = 1
        }
        lengths.append(Int32(bytes.count - start))
        formats.append(format)
        // libpq takes the length of a text value from its NUL.
        bytes.append(0)
        starts.append(parameter == .null ? nil : start)
    }

    /// What `number.description` gives, without the string.
    private mutating func append(decimal number: Int64) {
        let start = bytes.count
        var rest = number.magnitude
        repeat {
            let (quotient, digit) = rest.quotientAndRemainder(dividingBy: 10)
            bytes.append(UInt8(ascii: "0") + UInt8(digit))
            rest = quotient
        } while rest > 0
        if number < 0 { bytes.append(UInt8(ascii: "-")) }
        bytes[start...].reverse()
    }
}
