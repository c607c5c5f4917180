public import Placement

/// Where one value of a shard key comes from.
public enum KeySource: Hashable, Sendable {
    /// A constant of the statement, in the key type's text format.
    case constant(String)
    /// NULL, which equals nothing.
    case null
    /// `$n`, perhaps behind a cast to a type of the key's family (its OID; 0 without a cast).
    case parameter(Int, cast: UInt32)
    /// Each element of the array `$n`, as in `= ANY ($n)`.
    case elements(ofParameter: Int)
}

/// The values that a shard key can have for all rows that matter.
public struct KeySet: Hashable, Sendable {
    /// The shard key's type.
    public var type: ShardKeyType
    /// Where the values come from; none means that no row can match.
    public var sources: [KeySource]
    /// Parameters whose type the server finds elsewhere in the statement, so that it must be told to be sure of it.
    public var untypedParameters: Set<Int> = []

    /// Hashes of the values; nil when one of them can't be told here.
    ///
    /// `parameters` are those bound, `$1` first. NULLs have no hash.
    public func hashes(_ parameters: [BoundParameter]) -> [Int64]? {
        var hashes: [Int64] = []
        for source in sources {
            switch source {
            case .constant(let text):
                guard let hash = type.hash(text.utf8, .text) else { return nil }
                hashes.append(hash)
            case .null: break
            case .parameter(let number, _):
                guard let parameter = usable(number, in: parameters) else { return nil }
                guard let bytes = parameter.bytes else { continue }
                guard let hash = type.hash(bytes, parameter.format) else { return nil }
                hashes.append(hash)
            case .elements(let number):
                guard (1...parameters.count + 1).contains(number), number <= parameters.count else { return nil }
                guard let elements = parameters[number - 1].hashesOfElements(type) else { return nil }
                hashes += elements
            }
        }
        return hashes
    }

    private func usable(_ number: Int, in parameters: [BoundParameter]) -> BoundParameter? {
        guard number >= 1, number <= parameters.count else { return nil }
        let parameter = parameters[number - 1]
        if parameter.type == 0 {
            return untypedParameters.contains(number) ? nil : parameter
        }
        return ShardKeyType(oid: parameter.type)?.family == type.family ? parameter : nil
    }
}

/// The value of a parameter, as Bind brought it.
public struct BoundParameter: Hashable, Sendable {
    /// The type's OID; 0 when nobody declared or described it.
    public var type: UInt32
    public var format: ValueFormat
    /// The value; nil for NULL.
    public var bytes: [UInt8]?

    /// Makes a parameter.
    public init(type: UInt32 = 0, format: ValueFormat = .text, _ bytes: [UInt8]?) {
        (self.type, self.format, self.bytes) = (type, format, bytes)
    }

    /// Makes a parameter in text format.
    public init(type: UInt32 = 0, text: String?) {
        self.init(type: type, text.map { Array($0.utf8) })
    }

    fileprivate func hashesOfElements(_ element: ShardKeyType) -> [Int64]? {
        guard let bytes else { return [] }
        switch format {
        case .text:
            guard let elements = ArrayText.elements(bytes) else { return nil }
            return Self.hashes(elements, element, .text)
        case .binary:
            guard let (type, elements) = ArrayText.binaryElements(bytes),
                ShardKeyType(oid: type)?.family == element.family
            else { return nil }
            return Self.hashes(elements, element, .binary)
        }
    }

    private static func hashes(_ elements: [[UInt8]?], _ type: ShardKeyType, _ format: ValueFormat) -> [Int64]? {
        var hashes: [Int64] = []
        for case let element? in elements {
            guard let hash = type.hash(element, format) else { return nil }
            hashes.append(hash)
        }
        return hashes
    }
}

/// Arrays in PostgreSQL's text and binary formats.
enum ArrayText {
    /// The elements of a one-dimensional array such as `{1,NULL,"a b"}`; nil for anything else.
    static func elements(_ bytes: [UInt8]) -> [[UInt8]?]? {
        guard bytes.first == UInt8(ascii: "{"), bytes.last == UInt8(ascii: "}"), bytes.count >= 2 else { return nil }
        let body = bytes[1..<(bytes.count - 1)]
        if body.allSatisfy({ $0 == 32 }) { return [] }
        var elements: [[UInt8]?] = []
        var index = body.startIndex
        while true {
            guard let (element, next) = element(body, from: index) else { return nil }
            elements.append(element)
            if next == body.endIndex { return elements }
            index = next + 1
        }
    }

    /// One element, and where the comma behind it or the end is.
    private static func element(_ body: ArraySlice<UInt8>, from start: Int) -> ([UInt8]?, Int)? {
        var index = start
        while index < body.endIndex, body[index] == 32 { index += 1 }
        guard index < body.endIndex else { return nil }
        if body[index] == UInt8(ascii: "\"") {
            var element: [UInt8] = []
            index += 1
            while index < body.endIndex, body[index] != UInt8(ascii: "\"") {
                if body[index] == UInt8(ascii: "\\") { index += 1 }
                guard index < body.endIndex else { return nil }
                element.append(body[index])
                index += 1
            }
            index += 1
            while index < body.endIndex, body[index] == 32 { index += 1 }
            guard index == body.endIndex || index < body.endIndex && body[index] == UInt8(ascii: ",") else {
                return nil
            }
            return (element, index)
        }
        let end = body[index...].firstIndex(of: UInt8(ascii: ",")) ?? body.endIndex
        var element = body[index..<end]
        while element.last == 32 { element.removeLast() }
        guard !element.isEmpty, !element.contains(where: { "{}\"\\".utf8.contains($0) }) else { return nil }
        let isNull = String(decoding: element, as: UTF8.self).lowercased() == "null"
        return (isNull ? nil : Array(element), end)
    }

    /// Element type and elements of what `array_send` writes, of at most one dimension.
    static func binaryElements(_ bytes: [UInt8]) -> (UInt32, [[UInt8]?])? {
        var rest = bytes[...]
        func word() -> UInt32? {
            guard rest.count >= 4 else { return nil }
            defer { rest = rest.dropFirst(4) }
            return rest.prefix(4).reduce(0) { $0 << 8 | UInt32($1) }
        }
        guard let dimensions = word(), word() != nil, let type = word() else { return nil }
        if dimensions == 0 { return (type, []) }
        guard dimensions == 1, let count = word(), word() != nil, count <= bytes.count else { return nil }
        var elements: [[UInt8]?] = []
        for _ in 0..<count {
            guard let length = word() else { return nil }
            if length == .max {
                elements.append(nil)
                continue
            }
            guard rest.count >= Int(length) else { return nil }
            elements.append(Array(rest.prefix(Int(length))))
            rest = rest.dropFirst(Int(length))
        }
        return rest.isEmpty ? (type, elements) : nil
    }
}
