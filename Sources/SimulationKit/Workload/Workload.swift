import TransactionCore
import TwoPhaseCommit

/// What clients do: drawn from a run's seed.
struct Workload {
    /// What one client asks for at once.
    enum Operation {
        case transaction([Statement], isGivenUp: Bool)
        case read([RowKey], ReadBound)
    }

    let accounts: [RowKey]
    let registers: [RowKey]
    /// How often a client reads.
    let readFraction: Double

    init(shards: [ShardID], accountsPerShard: Int, registersPerShard: Int, readFraction: Double) {
        accounts = shards.flatMap { shard in
            (0..<accountsPerShard).map { RowKey(shard: shard, table: .account, row: $0) }
        }
        registers = shards.flatMap { shard in
            (0..<registersPerShard).map { RowKey(shard: shard, table: .register, row: $0) }
        }
        self.readFraction = readFraction
    }

    /// The initial state: every account with the same amount.
    var initialRows: [RowKey: Value] {
        let accounts = accounts.map { ($0, Value(amount: 100, writer: 0)) }
        let registers = registers.map { ($0, Value(amount: 0, writer: 0)) }
        return Dictionary(uniqueKeysWithValues: accounts + registers)
    }

    func operation(number: Int, now: Timestamp, random: inout SeededGenerator) -> Operation {
        guard !random.chance(readFraction) else { return read(now: now, random: &random) }
        let statements =
            switch random.index(below: 10) {
            case 0...3: transfer(number: number, random: &random)
            case 4: lockedTransfer(number: number, random: &random)
            case 5: blindWrites(number: number, random: &random)
            case 6...7: readAndWrite(number: number, random: &random)
            case 8: singleWrite(number: number, random: &random)
            default: lockedReads(random: &random)
            }
        return .transaction(statements, isGivenUp: random.chance(0.03))
    }

    // MARK: Transactions

    /// Two UPDATEs, mostly in the order of their keys, so that deadlocks are rare and still there.
    private func transfer(number: Int, random: inout SeededGenerator) -> [Statement] {
        let keys = pick(2, of: accounts, random: &random)
        let amount = random.number(in: 1...50)
        return [
            .update(keys[0], .add(-amount, writer: number)), .update(keys[1], .add(amount, writer: number)),
        ]
    }

    /// SELECT … FOR UPDATE first.
    private func lockedTransfer(number: Int, random: inout SeededGenerator) -> [Statement] {
        let updates = transfer(number: number, random: &random)
        return updates.compactMap { update in
            if case .update(let key, _) = update { .lock(key, .exclusive) } else { nil }
        } + updates
    }

    /// Writes that don't look: only the order of their timestamps says which comes last.
    private func blindWrites(number: Int, random: inout SeededGenerator) -> [Statement] {
        pick(min(registers.count, 1 + random.index(below: 3)), of: registers, random: &random).map {
            .update($0, .set(random.number(in: 0...999), writer: number))
        }
    }

    /// Reads rows FOR SHARE and writes another: write skew, were the read locks given up early.
    private func readAndWrite(number: Int, random: inout SeededGenerator) -> [Statement] {
        let keys = pick(min(registers.count, 2 + random.index(below: 2)), of: registers, random: &random)
        return keys.dropLast().map { .lock($0, .share) }
            + keys.suffix(1).map { .update($0, .set(random.number(in: 0...999), writer: number)) }
    }

    private func singleWrite(number: Int, random: inout SeededGenerator) -> [Statement] {
        [.update(random.element(of: registers), .set(random.number(in: 0...999), writer: number))]
    }

    private func lockedReads(random: inout SeededGenerator) -> [Statement] {
        pick(min(registers.count, 1 + random.index(below: 2)), of: registers, random: &random).map { .lock($0, .share) }
    }

    private func pick(_ count: Int, of keys: [RowKey], random: inout SeededGenerator) -> [RowKey] {
        var left = keys
        var picked: [RowKey] = []
        while picked.count < count { picked.append(left.remove(at: random.index(below: left.count))) }
        return random.chance(0.9) ? picked.sorted() : picked
    }

    // MARK: Reads

    private func read(now: Timestamp, random: inout SeededGenerator) -> Operation {
        let keys =
            switch random.index(below: 3) {
            case 0: accounts
            case 1: pick(min(registers.count, 2), of: registers, random: &random)
            default: accounts + registers
            }
        return .read(keys, bound(now: now, random: &random))
    }

    private func bound(now: Timestamp, random: inout SeededGenerator) -> ReadBound {
        let staleness = Duration.nanoseconds(random.delay(in: 0...60 * millisecond))
        return switch random.index(below: 8) {
        case 0...3: .strong
        case 4: .at(now.advanced(byNanoseconds: random.number(in: -40 * millisecond...3 * millisecond)))
        case 5: .exactStaleness(staleness)
        case 6: .maxStaleness(staleness)
        default: .minTimestamp(now.advanced(byNanoseconds: -staleness.nanoseconds))
        }
    }
}
