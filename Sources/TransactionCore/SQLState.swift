/// A five-character SQLSTATE. Every code that Meridian itself raises is declared here, once.
public struct SQLState: RawRepresentable, Hashable, Sendable, CustomStringConvertible {
    public let rawValue: String

    public init(rawValue: String) {
        self.rawValue = rawValue
    }

    public var description: String { rawValue }

    /// The two-character class.
    public var errorClass: Substring { rawValue.prefix(2) }

    /// It says something of the rows that a statement found, or of values that it computed from them: it may come again
    /// or not when the rows are others.
    public var isAboutRows: Bool { ["21", "22", "23", "44", "P0"].contains(errorClass) }
}

extension SQLState {
    /// A cross-shard transaction, or a feature, that Meridian does not support.
    public static let featureNotSupported = SQLState(rawValue: "0A000")
    /// The connection to a shard was lost, or could not be made.
    public static let connectionFailure = SQLState(rawValue: "08006")
    /// The transaction's outcome is not known yet; ask for it by its gid.
    public static let transactionResolutionUnknown = SQLState(rawValue: "08007")
    /// Bytes that are not what the wire protocol says they should be.
    public static let protocolViolation = SQLState(rawValue: "08P01")
    /// Bytes that are no text in the encoding they should have.
    public static let characterNotInRepertoire = SQLState(rawValue: "22021")
    /// The data of a COPY is not in the format that it should have.
    public static let badCopyFileFormat = SQLState(rawValue: "22P04")
    /// A value is out of its range, a timestamp from the far future among them.
    public static let invalidParameterValue = SQLState(rawValue: "22023")
    /// That can't be done within a transaction.
    public static let activeTransaction = SQLState(rawValue: "25001")
    /// That can be done within a transaction block only.
    public static let noActiveTransaction = SQLState(rawValue: "25P01")
    /// The transaction is over, or has failed before.
    public static let inFailedTransaction = SQLState(rawValue: "25P02")
    /// The client left a transaction open and sent nothing for longer than it allows itself.
    public static let idleInTransactionSessionTimeout = SQLState(rawValue: "25P03")
    /// A prepared statement of that name is not there.
    public static let invalidStatementName = SQLState(rawValue: "26000")
    /// A portal or cursor of that name is not there.
    public static let invalidCursorName = SQLState(rawValue: "34000")
    /// A write in a transaction that promised not to.
    public static let readOnlyTransaction = SQLState(rawValue: "25006")
    /// That user may not connect like this.
    public static let invalidAuthorizationSpecification = SQLState(rawValue: "28000")
    /// The password is wrong, or there is no such user.
    public static let invalidPassword = SQLState(rawValue: "28P01")
    /// Nothing was committed, and trying again is safe.
    public static let serializationFailure = SQLState(rawValue: "40001")
    /// Chosen as the victim of a deadlock; trying again is safe.
    public static let deadlockDetected = SQLState(rawValue: "40P01")
    /// The text is not SQL.
    public static let syntaxError = SQLState(rawValue: "42601")
    /// A prepared transaction of that name is not there.
    public static let undefinedObject = SQLState(rawValue: "42704")
    /// A column is not there.
    public static let undefinedColumn = SQLState(rawValue: "42703")
    /// A portal or cursor of that name is there already.
    public static let duplicateCursor = SQLState(rawValue: "42P03")
    /// The object is of a kind that this can't be done with.
    public static let wrongObjectType = SQLState(rawValue: "42809")
    /// A prepared statement of that name is there already.
    public static let duplicatePreparedStatement = SQLState(rawValue: "42P05")
    /// A schema is there already.
    public static let duplicateSchema = SQLState(rawValue: "42P06")
    /// A table, or another relation, is there already.
    public static let duplicateTable = SQLState(rawValue: "42P07")
    /// A database of that name is not there.
    public static let undefinedDatabase = SQLState(rawValue: "3D000")
    /// A savepoint of that name is not there.
    public static let invalidSavepoint = SQLState(rawValue: "3B001")
    /// A schema is not there.
    public static let undefinedSchema = SQLState(rawValue: "3F000")
    /// A function is not there.
    public static let undefinedFunction = SQLState(rawValue: "42883")
    /// A parameter is not there.
    public static let undefinedParameter = SQLState(rawValue: "42P02")
    /// A table is not there.
    public static let undefinedTable = SQLState(rawValue: "42P01")
    /// A row with that key is there already.
    public static let uniqueViolation = SQLState(rawValue: "23505")
    /// The disk is full.
    public static let diskFull = SQLState(rawValue: "53100")
    /// Too many connections: the shard's limit, or the pool's.
    public static let tooManyConnections = SQLState(rawValue: "53300")
    /// A limit that the operator set was reached.
    public static let configurationLimitExceeded = SQLState(rawValue: "53400")
    /// A statement is nested more deeply than can be parsed.
    public static let statementTooComplex = SQLState(rawValue: "54001")
    /// The object is not in the state that the operation needs: another coordinator holds the shard.
    public static let objectNotInPrerequisiteState = SQLState(rawValue: "55000")
    /// The object is in use, by the transaction itself.
    public static let objectInUse = SQLState(rawValue: "55006")
    /// A wait for other transactions ended at its deadline.
    public static let lockNotAvailable = SQLState(rawValue: "55P03")
    /// A wait ended at its deadline, or the caller gave up.
    public static let queryCanceled = SQLState(rawValue: "57014")
    /// An operator ended the session.
    public static let adminShutdown = SQLState(rawValue: "57P01")
    /// The server is starting, stopping or not there yet.
    public static let cannotConnectNow = SQLState(rawValue: "57P03")
    /// The client sent nothing for longer than it allows itself.
    public static let idleSessionTimeout = SQLState(rawValue: "57P05")
    /// The clock can't be trusted.
    public static let clockNotTrusted = SQLState(rawValue: "58M01")
    /// The asked timestamp is older than what the shards still keep.
    public static let snapshotTooOld = SQLState(rawValue: "72000")
    /// An invariant of Meridian's own does not hold.
    public static let internalError = SQLState(rawValue: "XX000")
}
