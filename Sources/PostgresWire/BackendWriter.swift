import NIOCore

/// Whether a session is in a transaction, as ReadyForQuery says it.
public enum TransactionStatus: UInt8, Hashable, Sendable, CaseIterable {
    case idle = 0x49
    case inTransaction = 0x54
    /// In a transaction that has failed: only ROLLBACK will do.
    case failed = 0x45
}

/// One column of a result.
public struct FieldDescription: Hashable, Sendable {
    public var name: String
    /// The oid of the table that it is a column of, zero for none.
    public var table: UInt32
    /// The number of the column in that table, zero for none.
    public var attribute: Int16
    /// The oid of its type.
    public var type: UInt32
    /// `pg_type.typlen`: negative for types of varying size.
    public var typeSize: Int16
    /// `pg_attribute.atttypmod`, -1 for none.
    public var typeModifier: Int32
    public var format: FormatCode

    public init(
        name: String, table: UInt32 = 0, attribute: Int16 = 0, type: UInt32, typeSize: Int16 = -1,
        typeModifier: Int32 = -1, format: FormatCode = .text
    ) {
        self.name = name
        self.table = table
        self.attribute = attribute
        self.type = type
        self.typeSize = typeSize
        self.typeModifier = typeModifier
        self.format = format
    }
}

/// Writes a server's messages one behind the other, for one flush.
///
/// A row is begun, written column by column from wherever its bytes are, and ended; nothing is allocated but the
/// buffer's own growth. Between the two only ``column(_:)-(UnsafeRawBufferPointer?)`` and its like may be called.
public struct BackendWriter: Sendable {
    private var buffer: ByteBuffer
    private let capacity: Int
    /// Where the row or description under way begins, and how many columns it lacks.
    private var open: (start: Int, columnsLeft: Int)?

    /// Makes a writer whose buffers begin with `capacity` bytes. By default it is the most that glibc keeps at hand.
    public init(capacity: Int = 1_024) {
        self.capacity = capacity
        buffer = ByteBufferAllocator().buffer(capacity: capacity)
    }

    /// How much waits to be taken.
    public var bytesWritten: Int { buffer.readableBytes }

    /// Gives away all that was written since the last time, and begins with a new buffer.
    public mutating func take() -> ByteBuffer {
        precondition(open == nil, "a row is under way")
        var taken = ByteBufferAllocator().buffer(capacity: capacity)
        swap(&taken, &buffer)
        return taken
    }

    // MARK: Rows

    /// Begins a DataRow; ``column(_:)-(UnsafeRawBufferPointer?)`` follows `columns` times, then ``endDataRow()``.
    public mutating func beginDataRow(columns: Int) {
        begin(UInt8(ascii: "D"), columns)
    }

    /// Writes the next column of the row, nil for NULL. The bytes may be those of a libpq result: they are copied.
    public mutating func column(_ value: UnsafeRawBufferPointer?) {
        countColumn()
        guard let value else {
            buffer.writeInteger(Int32(-1))
            return
        }
        buffer.writeInteger(Int32(value.count))
        buffer.writeBytes(value)
    }

    /// Writes the next column of the row, nil for NULL.
    public mutating func column(_ value: ByteBuffer?) {
        countColumn()
        buffer.writeValue(value)
    }

    /// Writes the next column of the row: text.
    public mutating func column(_ text: String) {
        countColumn()
        buffer.writeInteger(Int32(text.utf8.count))
        buffer.writeString(text)
    }

    /// Writes a whole DataRow; each value is asked for once, and must stay where it is meanwhile.
    public mutating func dataRow(columns: Int, _ value: (_ column: Int) -> UnsafeRawBufferPointer?) {
        withUnsafeTemporaryAllocation(of: UnsafeRawBufferPointer?.self, capacity: columns) { values in
            var length = 6
            for column in 0..<columns {
                let bytes = value(column)
                values.initializeElement(at: column, to: bytes)
                length += 4 + (bytes?.count ?? 0)
            }
            buffer.writeWithUnsafeMutableBytes(minimumWritableBytes: length + 1) { target in
                var offset = 0
                func put<Number: FixedWidthInteger>(_ number: Number) {
                    target.storeBytes(of: number.bigEndian, toByteOffset: offset, as: Number.self)
                    offset += MemoryLayout<Number>.size
                }
                put(UInt8(ascii: "D"))
                put(Int32(length))
                put(Int16(columns))
                for bytes in values {
                    put(bytes.map { Int32($0.count) } ?? -1)
                    guard let bytes else { continue }
                    UnsafeMutableRawBufferPointer(rebasing: target[offset...]).copyMemory(from: bytes)
                    offset += bytes.count
                }
                return offset
            }
        }
    }

    /// Writes DataRows that are there as whole messages, one behind the other.
    public mutating func dataRows(_ messages: UnsafeRawBufferPointer) {
        precondition(open == nil, "a row is under way")
        buffer.writeBytes(messages)
    }

    /// Ends the row.
    public mutating func endDataRow() {
        end()
    }

    /// Begins a RowDescription; ``field(_:)`` or its like from a pointer follows `fields` times, then
    /// ``endRowDescription()``.
    public mutating func beginRowDescription(fields: Int) {
        begin(UInt8(ascii: "T"), fields)
    }

    /// Describes the next column; `name` has no NUL or ends at it.
    public mutating func field(
        name: UnsafeRawBufferPointer, table: UInt32, attribute: Int16, type: UInt32, typeSize: Int16,
        typeModifier: Int32, format: FormatCode
    ) {
        countColumn()
        buffer.writeText(name)
        buffer.writeMultipleIntegers(table, attribute, type, typeSize, typeModifier, format.rawValue)
    }

    /// Describes the next column.
    public mutating func field(_ field: FieldDescription) {
        countColumn()
        buffer.writeText(field.name)
        buffer.writeMultipleIntegers(
            field.table, field.attribute, field.type, field.typeSize, field.typeModifier, field.format.rawValue)
    }

    /// Ends the description.
    public mutating func endRowDescription() {
        end()
    }

    public mutating func rowDescription(_ fields: [FieldDescription]) {
        beginRowDescription(fields: fields.count)
        for field in fields { self.field(field) }
        endRowDescription()
    }

    private mutating func begin(_ type: UInt8, _ columns: Int) {
        precondition(open == nil, "a row is under way")
        open = (buffer.beginMessage(type), columns)
        buffer.writeCount(columns)
    }

    private mutating func countColumn() {
        precondition(open.map { $0.columnsLeft > 0 } == true, "no row is under way, or it has all its columns")
        open?.columnsLeft -= 1
    }

    private mutating func end() {
        guard let row = open, row.columnsLeft == 0 else {
            preconditionFailure("the row lacks \(open.map { "\($0.columnsLeft) columns" } ?? "its beginning")")
        }
        buffer.endMessage(row.start)
        open = nil
    }

    // MARK: Messages of any length

    /// Writes a message of this type, its body by `body`.
    mutating func message(_ type: UInt8, _ body: (inout ByteBuffer) -> Void) {
        precondition(open == nil, "a row is under way")
        let start = buffer.beginMessage(type)
        body(&buffer)
        buffer.endMessage(start)
    }

    /// Writes a message that has no body.
    mutating func empty(_ type: UInt8) {
        precondition(open == nil, "a row is under way")
        buffer.writeMultipleIntegers(type, UInt32(4))
    }
}
