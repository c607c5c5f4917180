import CLibPQ

/// What PostgreSQL says about one column of a result, as RowDescription has it.
public struct ResultField: Hashable, Sendable {
    public let name: String
    /// The table whose column it is; 0 when it is none.
    public let tableOID: UInt32
    /// The number of the column in its table, from 1; 0 when it is none.
    public let columnNumber: Int16
    public let typeOID: UInt32
    /// In bytes; negative for types of variable width.
    public let typeSize: Int16
    /// What the type makes of it, such as the length of a `varchar`; -1 for nothing.
    public let typeModifier: Int32
    /// The values are in the type's binary format; false in a description, which is made before a format is chosen.
    public let isBinary: Bool

    /// The same column of a type with another number.
    public func ofType(_ typeOID: UInt32) -> ResultField {
        ResultField(
            name: name, tableOID: tableOID, columnNumber: columnNumber, typeOID: typeOID, typeSize: typeSize,
            typeModifier: typeModifier, isBinary: isBinary)
    }

    /// The same column with its values in the format that those of `other` are in.
    public func inFormat(of other: ResultField) -> ResultField {
        ResultField(
            name: name, tableOID: tableOID, columnNumber: columnNumber, typeOID: typeOID, typeSize: typeSize,
            typeModifier: typeModifier, isBinary: other.isBinary)
    }

    /// All columns of a libpq result.
    static func all(of result: OpaquePointer) -> [ResultField] {
        (0..<PQnfields(result)).map { column in
            ResultField(
                name: String(cString: PQfname(result, column)),
                tableOID: PQftable(result, column),
                columnNumber: Int16(truncatingIfNeeded: PQftablecol(result, column)),
                typeOID: PQftype(result, column),
                typeSize: Int16(truncatingIfNeeded: PQfsize(result, column)),
                typeModifier: PQfmod(result, column),
                isBinary: PQfformat(result, column) == 1)
        }
    }
}

/// What a statement takes and returns, as the server says without running it; see
/// ``ShardConnection/describe(_:deadline:)``.
public struct StatementDescription: Hashable, Sendable {
    /// The OIDs of the parameters' types, declared or inferred.
    public let parameterTypes: [UInt32]
    /// The columns of the result; none for a statement without a result.
    public let fields: [ResultField]

    /// Describes what takes parameters of these types and returns these columns.
    public init(parameterTypes: [UInt32] = [], fields: [ResultField]) {
        (self.parameterTypes, self.fields) = (parameterTypes, fields)
    }

    init(_ result: SQLResult) {
        let pointer = result.storage.pointer
        parameterTypes = (0..<PQnparams(pointer)).map { PQparamtype(pointer, $0) }
        fields = ResultField.all(of: pointer)
    }
}
