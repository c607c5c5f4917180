import TransactionCore

extension CatalogHolds.Message {
    public func write(to writer: inout ByteWriter) {
        let (kind, number): (UInt8, UInt64?) =
            switch self {
            case .ask: (1, nil)
            case .hold(let number): (2, number)
            case .held(let number): (3, number)
            case .released(let number): (4, number)
            }
        writer.byte(kind)
        if let number { writer.number(number) }
    }

    public init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .ask
        case 2: self = .hold(try reader.number())
        case 3: self = .held(try reader.number())
        case 4: self = .released(try reader.number())
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
    }
}
