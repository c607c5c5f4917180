import TransactionCore

/// What ErrorResponse and NoticeResponse say: fields in their order, written exactly as given.
///
/// Source: PostgreSQL documentation, "Error and Notice Message Fields".
public struct ErrorFields: Hashable, Sendable {
    /// What a field says; the raw value is its letter. A letter that is not among these is passed through as well.
    public struct Code: RawRepresentable, Hashable, Sendable {
        public let rawValue: UInt8

        public init(rawValue: UInt8) {
            self.rawValue = rawValue
        }

        /// `S`, translated to the server's language.
        public static let localizedSeverity = Code(rawValue: UInt8(ascii: "S"))
        /// `V`, never translated.
        public static let severity = Code(rawValue: UInt8(ascii: "V"))
        public static let sqlState = Code(rawValue: UInt8(ascii: "C"))
        public static let message = Code(rawValue: UInt8(ascii: "M"))
        public static let detail = Code(rawValue: UInt8(ascii: "D"))
        public static let hint = Code(rawValue: UInt8(ascii: "H"))
        public static let position = Code(rawValue: UInt8(ascii: "P"))
        public static let internalPosition = Code(rawValue: UInt8(ascii: "p"))
        public static let internalQuery = Code(rawValue: UInt8(ascii: "q"))
        public static let context = Code(rawValue: UInt8(ascii: "W"))
        public static let schema = Code(rawValue: UInt8(ascii: "s"))
        public static let table = Code(rawValue: UInt8(ascii: "t"))
        public static let column = Code(rawValue: UInt8(ascii: "c"))
        public static let dataType = Code(rawValue: UInt8(ascii: "d"))
        public static let constraint = Code(rawValue: UInt8(ascii: "n"))
        public static let file = Code(rawValue: UInt8(ascii: "F"))
        public static let line = Code(rawValue: UInt8(ascii: "L"))
        public static let routine = Code(rawValue: UInt8(ascii: "R"))

        /// All that PostgreSQL sends, in its order.
        public static let all: [Code] = [
            .localizedSeverity, .severity, .sqlState, .message, .detail, .hint, .position, .internalPosition,
            .internalQuery, .context, .schema, .table, .column, .dataType, .constraint, .file, .line, .routine,
        ]
    }

    /// How bad it is.
    public enum Severity: String, Hashable, Sendable {
        case error = "ERROR"
        case fatal = "FATAL"
        case panic = "PANIC"
        case warning = "WARNING"
        case notice = "NOTICE"
        case debug = "DEBUG"
        case info = "INFO"
        case log = "LOG"
    }

    public struct Field: Hashable, Sendable {
        public var code: Code
        public var value: String

        public init(_ code: Code, _ value: String) {
            self.code = code
            self.value = value
        }
    }

    public var fields: [Field]

    /// Makes an error that has just these fields.
    public init(fields: [Field]) {
        self.fields = fields
    }

    /// Makes an error of Meridian's own.
    public init(
        _ severity: Severity, _ sqlState: SQLState, _ message: String, detail: String? = nil, hint: String? = nil
    ) {
        fields = [
            Field(.localizedSeverity, severity.rawValue), Field(.severity, severity.rawValue),
            Field(.sqlState, sqlState.rawValue), Field(.message, message),
        ]
        if let detail { fields.append(Field(.detail, detail)) }
        if let hint { fields.append(Field(.hint, hint)) }
    }

    /// What the client is told of a transaction that failed.
    public init(_ error: TransactionError, severity: Severity = .error) {
        self.init(severity, error.sqlState, error.message, detail: error.detail, hint: error.hint)
        for code in Code.all { error.reportFields[code.rawValue].map { fields.append(Field(code, $0)) } }
    }

    /// What the client is told of its own bytes; the severity goes by what becomes of the connection.
    public init(_ error: WireError) {
        self.init(
            error.isFatal ? .fatal : .error, error.sqlState, error.message, detail: error.detail, hint: error.hint)
    }

    /// The value of the first field of that code.
    public subscript(code: Code) -> String? {
        fields.first { $0.code == code }?.value
    }
}
