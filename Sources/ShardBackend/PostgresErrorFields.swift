import CLibPQ
import TransactionCore

/// An error or a notice as PostgreSQL sent it, with every field it had.
///
/// Source: PostgreSQL documentation, "Error and Notice Message Fields".
public struct PostgresErrorFields: Hashable, Sendable {
    /// What a field says, in PostgreSQL's order; the raw value is its letter in the wire protocol.
    public enum Field: UInt8, CaseIterable, Sendable {
        /// Translated to the server's language.
        case localizedSeverity = 0x53
        /// Never translated.
        case severity = 0x56
        case sqlState = 0x43
        case message = 0x4D
        case detail = 0x44
        case hint = 0x48
        case position = 0x50
        case internalPosition = 0x70
        case internalQuery = 0x71
        case context = 0x57
        case schema = 0x73
        case table = 0x74
        case column = 0x63
        case dataType = 0x64
        case constraint = 0x6E
        case file = 0x46
        case line = 0x4C
        case routine = 0x52

        /// What ``TransactionError/reportFields`` keeps.
        static let reported = allCases.filter { field in
            ![.localizedSeverity, .severity, .sqlState, .message, .detail, .hint].contains(field)
        }
    }

    private var fields: [Field: String]

    /// Makes an error that has just these fields.
    public init(_ fields: [Field: String]) {
        self.fields = fields
    }

    /// Copies the fields out of a libpq result.
    init(_ result: OpaquePointer?) {
        fields = [:]
        for field in Field.allCases {
            if let value = PQresultErrorField(result, Int32(field.rawValue)) { fields[field] = String(cString: value) }
        }
    }

    /// The value of a field, nil when the server did not send it.
    public subscript(field: Field) -> String? { fields[field] }

    /// Every field that the server sent, as it was and in PostgreSQL's order, to be passed on.
    public var all: [(field: Field, value: String)] {
        Field.allCases.compactMap { field in fields[field].map { (field, $0) } }
    }

    /// ERROR, FATAL or PANIC; of a notice WARNING, NOTICE, DEBUG, INFO or LOG.
    public var severity: String { fields[.severity] ?? "ERROR" }
    /// The five-character code.
    public var sqlState: SQLState { fields[.sqlState].map(SQLState.init) ?? .internalError }
    public var message: String { fields[.message] ?? "" }
    public var detail: String? { fields[.detail] }
    public var hint: String? { fields[.hint] }
    /// Where in the statement's text the error is, in characters from 1.
    public var position: Int? { fields[.position].flatMap { Int($0) } }
    /// Where in ``internalQuery`` the error is, in characters from 1.
    public var internalPosition: Int? { fields[.internalPosition].flatMap { Int($0) } }
    /// The text of a statement that the server generated and that failed.
    public var internalQuery: String? { fields[.internalQuery] }
    /// The call stack of functions on the server.
    public var context: String? { fields[.context] }
    public var schema: String? { fields[.schema] }
    public var table: String? { fields[.table] }
    public var column: String? { fields[.column] }
    public var dataType: String? { fields[.dataType] }
    public var constraint: String? { fields[.constraint] }
    /// The server's source file, line and function that raised the error.
    public var file: String? { fields[.file] }
    public var line: Int? { fields[.line].flatMap { Int($0) } }
    public var routine: String? { fields[.routine] }

    /// The server ended the session with this error.
    public var isFatal: Bool { severity == "FATAL" || severity == "PANIC" }

    /// The server no longer has the prepared statement that was named, or can't use it after a change of the schema.
    ///
    /// The connection has forgotten the statement by the time the error is seen: doing the same again prepares it anew.
    public var isStalePreparedStatement: Bool {
        sqlState == .invalidStatementName || (sqlState == .featureNotSupported && routine == "RevalidateCachedQuery")
    }
}

extension PostgresErrorFields: CustomStringConvertible {
    /// psql's layout.
    public var description: String {
        var lines = ["\(severity):  \(sqlState): \(message)"]
        if let detail { lines.append("DETAIL:  \(detail)") }
        if let hint { lines.append("HINT:  \(hint)") }
        if let context { lines.append("CONTEXT:  \(context)") }
        return lines.joined(separator: "\n")
    }
}
