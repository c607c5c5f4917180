/// A statement and the values of its parameters.
public struct SQLStatement: Sendable {
    /// How the server sends the values of a result.
    public enum Format: Int32, Sendable {
        case text = 0
        case binary = 1
    }

    /// The text, with `$1`, `$2`, … for parameters.
    public var text: String
    public var parameters: [SQLParameter]
    /// The OIDs of the parameters' types, as far as they are declared; the server infers the others, and those that
    /// are 0.
    public var parameterTypes: [UInt32]
    /// The connection has the server parse the text once and names it from then on. False is for texts that are used
    /// once.
    public var isPrepared: Bool
    /// ``SQLRow`` reads both; binary costs less for numbers and bytes.
    public var resultFormat: Format

    public init(
        _ text: String, _ parameters: [SQLParameter] = [], parameterTypes: [UInt32] = [], isPrepared: Bool = true,
        resultFormat: Format = .binary
    ) {
        self.text = text
        self.parameters = parameters
        self.parameterTypes = parameterTypes
        self.isPrepared = isPrepared
        self.resultFormat = resultFormat
    }
}

extension SQLStatement: ExpressibleByStringLiteral {
    /// A statement without parameters, prepared like any other.
    public init(stringLiteral text: String) {
        self.init(text, [])
    }
}

extension SQLStatement: CustomStringConvertible {
    /// The text; the values of parameters may be secrets.
    public var description: String { parameters.isEmpty ? text : "\(text) [\(parameters.count) parameters]" }
}

/// The value of a parameter.
///
/// The server infers each parameter's type from its place in the statement, so one text is one prepared statement
/// whatever the values are. Write `$1::bigint` where the place leaves the type open, as in `SELECT $1`, or declare it
/// in ``SQLStatement/parameterTypes``.
public enum SQLParameter: Hashable, Sendable {
    case null
    /// A value of any type, written as in an SQL literal. It can't hold a NUL character, as no text in PostgreSQL can.
    case text(String)
    case int64(Int64)
    case double(Double)
    case bool(Bool)
    /// The inferred type's binary format; of `bytea` that is the bytes themselves.
    case bytes([UInt8])
}

extension SQLParameter: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByBooleanLiteral,
    ExpressibleByFloatLiteral, ExpressibleByNilLiteral
{
    public init(stringLiteral value: String) { self = .text(value) }
    public init(integerLiteral value: Int64) { self = .int64(value) }
    public init(booleanLiteral value: Bool) { self = .bool(value) }
    public init(floatLiteral value: Double) { self = .double(value) }
    public init(nilLiteral: ()) { self = .null }
}
