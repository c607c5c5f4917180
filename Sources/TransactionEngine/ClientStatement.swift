import ShardBackend

/// A client's statement as a snapshot runs it on a shard.
public struct ClientStatement: Sendable {
    public var statement: SQLStatement
    /// The client's `search_path`, which the session has by ``preparation``; each schema's versioned tables appear as
    /// they were.
    public var searchPath: [String]
    /// The tables that it reads, as they stand in SQL.
    public var tables: [String]
    /// What the session is told first.
    public var preparation: SessionPreparation?
    /// False for a statement whose views or functions are bound to the tables themselves: it is read only while these
    /// are the state at the timestamp.
    public var isReadableInThePast: Bool
    /// The text for as-of views, where it is another: names that are qualified by a schema.
    public var textInThePast: String?

    public init(
        _ statement: SQLStatement, searchPath: [String], tables: [String] = [], preparation: SessionPreparation? = nil,
        isReadableInThePast: Bool = true, textInThePast: String? = nil
    ) {
        (self.statement, self.searchPath, self.preparation) = (statement, searchPath, preparation)
        self.tables = tables
        (self.isReadableInThePast, self.textInThePast) = (isReadableInThePast, textInThePast)
    }

    /// The statement for as-of views. Its text is another one, so that the server's plans for one `search_path` are not
    /// thrown away for the other's.
    var asOf: ClientStatement {
        var copy = self
        copy.statement.text = (textInThePast ?? statement.text) + "\n/* at a timestamp */"
        return copy
    }
}
