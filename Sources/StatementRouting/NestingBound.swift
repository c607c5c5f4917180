/// A bound on how deeply PostgreSQL's parse tree of a text is nested, found without building the tree.
///
/// libpg_query and protobuf-c recurse over the tree and check no stack: about 1000 terms of `1+1+…` overflow a stack
/// of 1 MB. The bound counts what each token can add: an opening bracket or CASE encloses, an operator or a keyword
/// such as NOT or IS stacks on what stands beside it, and commas, AND and OR (whose lists PostgreSQL keeps flat) set
/// apart.
struct NestingBound {
    /// Levels allowed. An opening bracket counts for ``bracketLevels``, an operator for one: 250 nested subqueries or
    /// 2000 chained operators, which need about 3 MB of stack; threads have 8 MB unless someone says otherwise.
    static let levelsMax = 2000
    /// A subquery in brackets is this many times as deep in the tree as an operator.
    static let bracketLevels = 8

    private struct Level {
        var isCase = false
        /// What stacks in the element since the last comma, AND or OR.
        var chain = 0
        /// The deepest bracket in the element.
        var inner = 0
        /// The deepest element so far.
        var deepest = 0
        /// JOINs and set operations stack across commas.
        var joins = 0

        mutating func elementEnded() {
            deepest = max(deepest, chain + inner)
            (chain, inner) = (0, 0)
        }

        var depth: Int { max(deepest, chain + inner) + joins }
    }

    private var levels = [Level()]
    private var openLevels = 0

    /// Whether a text that is not known to be SQL is safe to parse.
    static func permits(_ bytes: UnsafeBufferPointer<UInt8>) -> Bool {
        // Every token that stacks has a byte, and the cheapest subquery, `(table `, has seven.
        guard bytes.count > levelsMax else { return true }
        var bound = NestingBound()
        var lexer = Lexer(bytes)
        var isAfterDot = false
        while let token = lexer.next() {
            if !bound.take(token, bytes, isAfterDot: isAfterDot) { return false }
            isAfterDot = bytes.isMark(token, ".")
        }
        while bound.levels.count > 1 { bound.close() }
        return bound.levels[0].depth <= levelsMax
    }

    private mutating func take(_ token: Token, _ bytes: UnsafeBufferPointer<UInt8>, isAfterDot: Bool) -> Bool {
        let top = levels.count - 1
        switch token.kind {
        case .symbol: levels[top].chain += 1
        case .punctuation:
            switch bytes[token.start] {
            case UInt8(ascii: "("), UInt8(ascii: "["): levels.append(Level())
            case UInt8(ascii: ")"), UInt8(ascii: "]"):
                while levels.count > 1, levels[levels.count - 1].isCase { close() }
                if levels.count > 1 { close() }
            case UInt8(ascii: ","): levels[top].elementEnded()
            case UInt8(ascii: ";"):
                while levels.count > 1 { close() }
                guard levels[0].depth <= Self.levelsMax else { return false }
                levels[0] = Level()
            default: break
            }
        case .word where !isAfterDot: word(token, bytes)
        default: break
        }
        // An upper bound needs no more than this many open brackets to be passed.
        return levels.count * 2 <= Self.levelsMax
    }

    private mutating func word(_ token: Token, _ bytes: UnsafeBufferPointer<UInt8>) {
        let top = levels.count - 1
        if bytes.isWord(token, "and") || bytes.isWord(token, "or") {
            levels[top].elementEnded()
        } else if bytes.isWord(token, "case") {
            levels.append(Level(isCase: true))
        } else if bytes.isWord(token, "end"), levels[top].isCase {
            close()
        } else if bytes.isWord(token, "join") {
            levels[top].joins += 2
        } else if bytes.isWord(token, "union") || bytes.isWord(token, "except") || bytes.isWord(token, "intersect") {
            levels[top].joins += 1
        } else if Self.stacks(token, bytes) {
            levels[top].chain += 1
        }
    }

    private static func stacks(_ token: Token, _ bytes: UnsafeBufferPointer<UInt8>) -> Bool {
        bytes.isWord(token, "not") || bytes.isWord(token, "is") || bytes.isWord(token, "collate")
            || bytes.isWord(token, "at") || bytes.isWord(token, "isnull") || bytes.isWord(token, "notnull")
            || bytes.isWord(token, "like") || bytes.isWord(token, "in")
    }

    private mutating func close() {
        let closed = levels.removeLast()
        let top = levels.count - 1
        levels[top].inner = max(levels[top].inner, closed.depth + Self.bracketLevels)
    }
}
