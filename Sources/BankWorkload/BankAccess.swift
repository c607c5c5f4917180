import EventLoops
import ShardBackend
import TransactionCore
import TwoPhaseCommit

/// A bank, however its accounts are reached: by an engine in this process (``Bank``) or by the wire protocol
/// (``RemoteBank``).
public protocol BankAccess: Sendable {
    /// How many accounts there are, numbered from 0.
    var accounts: Int64 { get }
    /// What all accounts hold together.
    var total: Int64 { get }
    /// Where its clients run.
    var loop: EventLoop { get }

    /// Whether the two accounts lie on different shards; nil when that is not known.
    func crosses(_ source: Int64, _ target: Int64) -> Bool?

    /// Moves `amount` from one account to another, unless that would overdraw.
    ///
    /// - Throws: ``TransactionError``.
    func transfer(_ amount: Int64, from source: Int64, to target: Int64) async throws -> TransferEnd

    /// The sum of all accounts.
    ///
    /// - Throws: ``TransactionError``.
    func sum(_ bound: ReadBound) async throws -> Int64

    /// A timestamp of now; nil when transactions have none, as on a plain PostgreSQL.
    func now() async throws -> Timestamp?

    /// The share of commits' time in which nothing but commit-wait was waited for, 0 to 1, since the coordinator
    /// started; nil where nobody waits so.
    func commitWaitShare() async -> Double?
}

/// How a transfer ended that did not fail.
public enum TransferEnd: Sendable {
    /// At that timestamp, where transactions have one.
    case committed(Timestamp?)
    /// The account would have been overdrawn.
    case refused
}
