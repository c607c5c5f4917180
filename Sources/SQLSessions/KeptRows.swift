import EventLoops
import ShardBackend
import StatementRouting
import TransactionCore

/// All rows of a cursor, and where it stands among them.
struct KeptRows: Sendable {
    let fields: [ResultField]
    private(set) var byteCount = 0
    private var blocks: [RowBlock] = []
    /// How many rows there are before each block, and in all.
    private var starts = [0]
    /// 0 is before the first row, which is 1.
    private var position = 0

    init(fields: [ResultField]) { self.fields = fields }

    private var count: Int { starts[starts.count - 1] }

    mutating func append(_ block: RowBlock) {
        guard block.count > 0 else { return }
        blocks.append(block)
        starts.append(count + block.count)
        byteCount += block.byteCount
    }

    /// Moves as FETCH does, and returns the rows that it comes past.
    mutating func fetch(_ amount: FetchAmount) -> [RowBlock] {
        switch amount {
        case .forward(let wanted):
            let first = position + 1
            let last = wanted < count - position ? position + wanted : count
            position = last - position < wanted ? count + 1 : last
            return first <= last ? rows(first...last) : []
        case .backward(let wanted):
            let (last, reaches) = (position - 1, wanted < position)
            position = reaches ? position - wanted : 0
            let first = max(position, 1)
            return first <= last ? stride(from: last, through: first, by: -1).flatMap { rows($0...$0) } : []
        case .absolute(let number): return move(to: number < 0 ? count + 1 + max(number, -count - 1) : number)
        case .relative(let distance):
            return move(to: distance > count ? count + 1 : position + max(distance, -count - 1))
        }
    }

    private mutating func move(to number: Int) -> [RowBlock] {
        position = min(max(number, 0), count + 1)
        return (1...max(1, count)).contains(position) && count > 0 ? rows(position...position) : []
    }

    private func rows(_ numbers: ClosedRange<Int>) -> [RowBlock] {
        let (first, end) = (numbers.lowerBound - 1, numbers.upperBound)
        // The block that has the first: the last that begins at it or before.
        var (low, high) = (0, blocks.count)
        while high - low > 1 {
            let middle = (low + high) / 2
            if starts[middle] <= first { low = middle } else { high = middle }
        }
        var found: [RowBlock] = []
        while low < blocks.count, starts[low] < end {
            let part = max(first, starts[low]) - starts[low]..<min(end, starts[low + 1]) - starts[low]
            found.append(blocks[low][part])
            low += 1
        }
        return found
    }
}

/// What one FETCH from kept rows returns.
actor KeptPortion: RowSource {
    private var blocks: ArraySlice<RowBlock>
    private let loop: EventLoop
    let tag: String

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    init(_ blocks: [RowBlock], words: String, on loop: EventLoop) {
        (self.blocks, self.loop) = (blocks[...], loop)
        tag = "\(words) \(blocks.reduce(0) { $0 + $1.count })"
    }

    func nextBlock() async throws(TransactionError) -> RowBlock? { blocks.popFirst() }

    func close() {}
}
