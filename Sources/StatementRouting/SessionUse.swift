/// What a statement asks of its session, or of the node itself, rather than of the shards.
public struct SessionUse: Hashable, Sendable {
    /// Calls of `set_config` that are output columns of a SELECT without tables.
    public var settings: [SettingCall] = []
    /// A call of one of Meridian's own functions that is all there is in the statement.
    public var call: OwnCall?
    /// Relations that the node fills.
    public var relations: Set<OwnRelation> = []
    /// The statement with the names of ``relations`` that stand for PostgreSQL's own replaced; nil if there are none.
    public var sql: String?

    /// Nothing is asked.
    public var isEmpty: Bool { settings.isEmpty && call == nil && relations.isEmpty }
}

/// An argument whose value is known before a server looks at it.
public enum PlainArgument: Hashable, Sendable {
    /// A literal; nil for NULL.
    case constant(String?)
    /// The parameter of that number, from 1.
    case parameter(Int)
}

/// `set_config(name, value, is_local)`; the value is what the column gives.
public struct SettingCall: Hashable, Sendable {
    /// Which output column it is, from 0.
    public var column: Int
    public var name: PlainArgument
    public var isLocal: PlainArgument

    /// Describes a call.
    public init(column: Int, name: PlainArgument, isLocal: PlainArgument) {
        (self.column, self.name, self.isLocal) = (column, name, isLocal)
    }
}

/// One of Meridian's own functions or `pg_notify`, called by `SELECT f(…)` or `SELECT * FROM f(…)`.
public struct OwnCall: Hashable, Sendable {
    /// In the schema `meridian`, or `pg_catalog`.
    public var function: String
    public var arguments: [PlainArgument]

    /// Describes a call.
    public init(function: String, arguments: [PlainArgument]) {
        (self.function, self.arguments) = (function, arguments)
    }
}

/// A relation whose rows the node has, not the shards.
public enum OwnRelation: String, Hashable, Sendable, CaseIterable {
    /// `meridian.stat_activity`: the sessions of the node's clients.
    case activity = "stat_activity"
    /// `meridian.stat_shards`: what the shards are and do.
    case shards = "stat_shards"
    /// `meridian.in_doubt_transactions`: what stands prepared on a shard.
    case inDoubt = "in_doubt_transactions"
    /// `pg_prepared_statements`: those of the session.
    case preparedStatements = "prepared_statements"

    /// The relation of PostgreSQL that it stands for.
    var systemName: String? { self == .preparedStatements ? "pg_prepared_statements" : nil }

    init?(_ name: RelationName) {
        if name.schema == "meridian" {
            self.init(rawValue: name.name)
        } else if name.schema == nil || name.schema == "pg_catalog",
            let match = Self.allCases.first(where: { $0.systemName == name.name })
        {
            self = match
        } else {
            return nil
        }
    }
}
