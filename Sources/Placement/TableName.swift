/// The full name of a table, view, sequence or function.
public struct TableName: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The schema.
    public let schema: String
    /// The name within the schema.
    public let name: String

    /// Names `name` in `schema`, both as PostgreSQL stores them.
    public init(schema: String = "public", _ name: String) {
        (self.schema, self.name) = (schema, name)
    }

    /// The name by which a session knows the schema of its own temporary tables.
    public static let temporarySchema = "pg_temp"

    /// A table of one session's alone.
    public var isTemporary: Bool { schema == Self.temporarySchema }

    /// As SQL, quoted where that is needed.
    public var description: String { "\(quotedIdentifier(schema)).\(quotedIdentifier(name))" }

    public static func < (lhs: TableName, rhs: TableName) -> Bool {
        (lhs.schema, lhs.name) < (rhs.schema, rhs.name)
    }
}

/// An identifier as SQL: in double quotes unless it is lower case, begins with a letter and is no word of SQL's.
///
/// Quotes more words than PostgreSQL's `quote_ident`, which does no harm.
public func quotedIdentifier(_ name: String) -> String {
    let bytes = name.utf8
    let isPlain =
        bytes.first.map { (0x61...0x7A).contains($0) || $0 == 0x5F } == true
        && bytes.allSatisfy { (0x61...0x7A).contains($0) || (0x30...0x39).contains($0) || $0 == 0x5F }
    if isPlain, !reservedWords.contains(name) { return name }
    return "\"" + name.split(separator: "\"", omittingEmptySubsequences: false).joined(separator: "\"\"") + "\""
}

/// Every keyword of PostgreSQL 15 that is not simply an identifier somewhere.
private let reservedWords = Set(
    """
    all analyse analyze and any array as asc asymmetric authorization between bigint binary bit boolean both case cast \
    char character check coalesce collate collation column concurrently constraint create cross current_catalog \
    current_date current_role current_schema current_time current_timestamp current_user dec decimal default \
    deferrable desc distinct do else end except exists extract false fetch float for foreign freeze from full grant \
    greatest group grouping having ilike in initially inner inout int integer intersect interval into is isnull join \
    json json_array json_arrayagg json_object json_objectagg lateral leading least left like limit localtime \
    localtimestamp merge_action national natural nchar none normalize not notnull null nullif numeric offset on only \
    or order out outer overlaps overlay placing position precision primary real references returning right row select \
    session_user setof similar smallint some substring symmetric system_user table tablesample then time timestamp to \
    trailing treat trim true union unique user using values varchar variadic verbose when where window with \
    xmlattributes xmlconcat xmlelement xmlexists xmlforest xmlnamespaces xmlparse xmlpi xmlroot xmlserialize xmltable
    """.split(separator: " ").map(String.init))
