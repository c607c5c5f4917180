import ShardBackend
import TransactionCore

/// What numbers (OIDs) the types of users have on one shard.
///
/// PostgreSQL gives a type its number when it is made, so the same type has another one on each shard. Clients are told
/// the first shard's, since they look types up there; what goes to another shard or comes from it is translated.
/// Numbers stand in declared types, in descriptions of columns, and in binary values of arrays and composite types,
/// and so in those of ranges over them.
struct ObjectNumbers: Sendable {
    /// What a value of a type is made of.
    enum Shape: Sendable {
        case array
        case composite
        /// A type's values, or an infinite bound.
        case range(of: UInt32)
        /// Ranges of that type.
        case multirange(of: UInt32)
    }

    /// The first number that is not PostgreSQL's own (`FirstNormalObjectId`).
    static let firstOfUsers: UInt32 = 16_384

    /// From the shard's numbers to the first shard's, and back; only those that differ.
    private(set) var toCluster: [UInt32: UInt32] = [:]
    private(set) var toShard: [UInt32: UInt32] = [:]
    /// By the first shard's number: what types are made of others.
    private let shapes: [UInt32: Shape]
    /// Every number that was known when this was made.
    private let known: Set<UInt32>

    /// One type, as ``query`` returns it.
    struct TypeRow: Sendable {
        var name: String
        var number: UInt32
        var shape: Shape?
    }

    /// A domain's values are those of the type that it is made of.
    static let query = SQLStatement(
        """
        WITH RECURSIVE made (domain, base) AS (\
        SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd' UNION ALL \
        SELECT domain, typbasetype FROM made JOIN pg_type ON oid = base WHERE typtype = 'd') \
        SELECT CASE WHEN e.oid IS NULL THEN format('%I.%I', n.nspname, t.typname) \
        ELSE format('%I.%I[]', m.nspname, e.typname) END, t.oid::bigint, \
        CASE WHEN EXISTS (SELECT FROM pg_type AS x WHERE x.typarray = coalesce(b.oid, t.oid)) THEN 'a' \
        WHEN coalesce(b.typtype, t.typtype) = 'c' THEN 'c' \
        ELSE coalesce((SELECT 'r' || rngsubtype::bigint FROM pg_range WHERE rngtypid = coalesce(b.oid, t.oid)), \
        (SELECT 'm' || rngtypid::bigint FROM pg_range WHERE rngmultitypid = coalesce(b.oid, t.oid)), '') END \
        FROM pg_type AS t JOIN pg_namespace AS n ON n.oid = t.typnamespace \
        LEFT JOIN pg_type AS e ON e.typarray = t.oid LEFT JOIN pg_namespace AS m ON m.oid = e.typnamespace \
        LEFT JOIN (made JOIN pg_type AS b ON b.oid = base AND b.typtype <> 'd') ON domain = t.oid \
        WHERE t.oid >= 16384 AND n.nspname !~ '^(pg_toast|pg_temp|meridian_undo|meridian_asof)'
        """)

    static func rows(of result: SQLResult) throws(ShardError) -> [TypeRow] {
        var rows: [TypeRow] = []
        for row in result {
            let word = try row.text(2)
            let part = UInt32(word.dropFirst())
            let shape: Shape? =
                switch (word.first, part) {
                case ("a", _): .array
                case ("c", _): .composite
                case ("r", let part?): .range(of: part)
                case ("m", let part?): .multirange(of: part)
                default: nil
                }
            rows.append(
                TypeRow(name: try row.text(0), number: UInt32(truncatingIfNeeded: try row.int64(1)), shape: shape))
        }
        return rows
    }

    init(cluster: [TypeRow], shard: [TypeRow]) {
        let numbers = Dictionary(cluster.map { ($0.name, $0.number) }, uniquingKeysWith: { first, _ in first })
        for type in shard {
            guard let number = numbers[type.name], number != type.number else { continue }
            toCluster[type.number] = number
            toShard[number] = type.number
        }
        var shapes: [UInt32: Shape] = [2249: .composite, 2287: .array]
        for type in cluster { shapes[type.number] = type.shape }
        self.shapes = shapes
        known = Set(cluster.map(\.number) + shard.map(\.number))
    }

    /// All types have the same numbers.
    var isSame: Bool { toCluster.isEmpty }

    func knows(_ number: UInt32) -> Bool { number < Self.firstOfUsers || known.contains(number) }

    // MARK: Translation

    /// Which way a number is translated.
    enum Direction: Sendable {
        case toShard, toCluster
    }

    func translated(_ number: UInt32, _ direction: Direction) -> UInt32 {
        guard number >= Self.firstOfUsers else { return number }
        return (direction == .toShard ? toShard[number] : toCluster[number]) ?? number
    }

    /// Whether binary values of the type have numbers in them; `number` is in the numbers that are translated from.
    func holdsNumbers(_ number: UInt32, _ direction: Direction) -> Bool { shape(of: number, direction) != nil }

    private func shape(of number: UInt32, _ direction: Direction) -> Shape? {
        shapes[direction == .toShard ? number : translated(number, .toCluster)]
    }

    /// Translates the numbers in rows of COPY's binary format: of each the number of its columns, and for each column
    /// its length and its bytes.
    ///
    /// - Parameter types: of the columns, with the first shard's numbers.
    func translateRows(_ bytes: inout [UInt8], of types: [UInt32], _ direction: Direction) {
        var place = 0
        while place + 2 < bytes.count {
            place += 2
            for type in types {
                guard let length = Self.integer(bytes, place, bytes.count) else { return }
                place += 4
                guard translateItem(&bytes, &place, length, bytes.count, shapes[type], direction) else { return }
            }
        }
    }

    /// Translates the numbers in a binary value; what makes no sense is left for the server to refuse.
    func translate(_ bytes: inout [UInt8], of number: UInt32, _ direction: Direction) {
        var cursor = 0
        let end = bytes.count
        translate(&bytes, at: &cursor, until: end, shape(of: number, direction), direction)
    }

    private func translate(
        _ bytes: inout [UInt8], at start: inout Int, until end: Int, _ shape: Shape?, _ direction: Direction
    ) {
        switch shape {
        case nil: break
        case .array?:
            // Dimensions, a flag, the elements' type, a length and a lower bound for each dimension, elements.
            guard let dimensions = Self.integer(bytes, start, end), (1...6).contains(dimensions),
                let type = Self.integer(bytes, start + 8, end)
            else { return }
            let inner = self.shape(of: UInt32(bitPattern: type), direction)
            put(translated(UInt32(bitPattern: type), direction), in: &bytes, at: start + 8)
            guard inner != nil else { return }
            var place = start + 12 + 8 * Int(dimensions)
            while let length = Self.integer(bytes, place, end) {
                place += 4
                guard translateItem(&bytes, &place, length, end, inner, direction) else { return }
            }
        case .composite?:
            // The number of columns, and for each its type, its length and its bytes.
            guard let columns = Self.integer(bytes, start, end), columns >= 0 else { return }
            var place = start + 4
            for _ in 0..<columns {
                guard let type = Self.integer(bytes, place, end), let length = Self.integer(bytes, place + 4, end)
                else { return }
                let inner = self.shape(of: UInt32(bitPattern: type), direction)
                put(translated(UInt32(bitPattern: type), direction), in: &bytes, at: place)
                place += 8
                guard translateItem(&bytes, &place, length, end, inner, direction) else { return }
            }
        case .range(let part)?:
            // Flags, then each bound that is there: its length and its bytes.
            guard start < end else { return }
            let flags = bytes[start]
            let isEmpty = flags & 0x01 != 0
            var place = start + 1
            for isInfinite in [flags & 0x08 != 0, flags & 0x10 != 0] where !isEmpty && !isInfinite {
                guard let length = Self.integer(bytes, place, end) else { return }
                place += 4
                guard translateItem(&bytes, &place, length, end, shapes[part], direction) else { return }
            }
        case .multirange(let range)?:
            // The number of ranges, and for each its length and its bytes.
            var place = start + 4
            while let length = Self.integer(bytes, place, end) {
                place += 4
                guard translateItem(&bytes, &place, length, end, shapes[range], direction) else { return }
            }
        }
    }

    /// One element or column, whose length has been read; false when it reaches beyond the end.
    private func translateItem(
        _ bytes: inout [UInt8], _ place: inout Int, _ length: Int32, _ end: Int, _ shape: Shape?,
        _ direction: Direction
    ) -> Bool {
        guard length > 0 else { return true }
        guard place + Int(length) <= end else { return false }
        var start = place
        translate(&bytes, at: &start, until: place + Int(length), shape, direction)
        place += Int(length)
        return true
    }

    private func put(_ number: UInt32, in bytes: inout [UInt8], at place: Int) {
        for offset in 0..<4 { bytes[place + offset] = UInt8(truncatingIfNeeded: number >> UInt32(24 - 8 * offset)) }
    }

    private static func integer(_ bytes: [UInt8], _ place: Int, _ end: Int) -> Int32? {
        guard place >= 0, place + 4 <= end else { return nil }
        return bytes[place..<(place + 4)].reduce(Int32(0)) { $0 << 8 | Int32($1) }
    }
}
