import CLibPQ

/// Rows of one result one behind the other, each as the DataRow message in which the server sent it.
///
/// libpq makes a result of each row that it hands out by itself, with three allocations of some kilobytes. Freed at
/// once they cost half as much as when many are kept; and who hands rows on needs no second look at their values.
final class PackedRows {
    /// So many rows are enough.
    static let rowsMax = 1024
    /// And so many bytes.
    static let bytesMax = 1 << 16

    /// In one piece, since each access to a property of an object is checked.
    private var rows: Rows
    private let columnCount: Int

    init(columnCount: Int) {
        self.columnCount = columnCount
        rows = Rows(memory: .allocate(byteCount: 4096, alignment: 1))
    }

    deinit {
        rows.memory.deallocate()
    }

    var count: Int { rows.starts.count / (columnCount + 1) }

    var isFull: Bool { rows.byteCount >= Self.bytesMax || count >= Self.rowsMax }

    /// Copies the only row of a result that has such columns.
    func append(rowOf result: OpaquePointer) { rows.append(rowOf: result, Int32(columnCount)) }

    /// The bytes of a value; nil for NULL.
    func value(_ row: Int, _ column: Int) -> UnsafeRawBufferPointer? {
        rows.value(at: Int(rows.starts[row * (columnCount + 1) + column + 1]))
    }

    func messages(_ range: Range<Int>) -> UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(rebasing: rows.memory[start(of: range.lowerBound)..<start(of: range.upperBound)])
    }

    private func start(of row: Int) -> Int {
        row < count ? Int(rows.starts[row * (columnCount + 1)]) : rows.byteCount
    }

    private struct Rows {
        /// Where messages begin, and in each where the length of each value is. A row has a GiB at most.
        var starts: [UInt32] = []
        var memory: UnsafeMutableRawBufferPointer
        var byteCount = 0

        func value(at place: Int) -> UnsafeRawBufferPointer? {
            let length = Int32(bigEndian: memory.loadUnaligned(fromByteOffset: place, as: Int32.self))
            return length < 0 ? nil : UnsafeRawBufferPointer(rebasing: memory[(place + 4)...].prefix(Int(length)))
        }

        mutating func append(rowOf result: OpaquePointer, _ columnCount: Int32) {
            let start = byteCount
            starts.append(UInt32(start))
            ensureRoom(for: 7)
            memory[start] = UInt8(ascii: "D")
            put(Int16(truncatingIfNeeded: columnCount), at: start + 5)
            byteCount += 7
            for column in 0..<columnCount {
                starts.append(UInt32(byteCount))
                let value = rawValue(result, 0, column)
                ensureRoom(for: 4 + (value?.count ?? 0))
                put(value.map { Int32($0.count) } ?? -1, at: byteCount)
                byteCount += 4
                guard let value else { continue }
                UnsafeMutableRawBufferPointer(rebasing: memory[byteCount...]).copyMemory(from: value)
                byteCount += value.count
            }
            put(Int32(byteCount - start - 1), at: start + 1)
        }

        private func put<Number: FixedWidthInteger>(_ number: Number, at place: Int) {
            memory.storeBytes(of: number.bigEndian, toByteOffset: place, as: Number.self)
        }

        private mutating func ensureRoom(for more: Int) {
            guard byteCount + more > memory.count else { return }
            let larger = UnsafeMutableRawBufferPointer.allocate(
                byteCount: max(2 * memory.count, byteCount + more), alignment: 1)
            larger.copyMemory(from: UnsafeRawBufferPointer(rebasing: memory[..<byteCount]))
            memory.deallocate()
            memory = larger
        }
    }
}
