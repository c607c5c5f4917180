/// How long things last, in nanoseconds.
///
/// The lease decides how long the cluster is without a leader when one dies: its rest, the back-off, and two rounds of
/// messages. Heartbeats come several to a lease, so that a lost one costs nothing.
public struct ConsensusTiming: Hashable, Sendable {
    /// How long a lease lasts from the moment it is asked for.
    public var leaseNanoseconds: Int64
    /// How often the leader renews it.
    public var heartbeatNanoseconds: Int64
    /// How long an answer is waited for before the message is sent again.
    public var resendNanoseconds: Int64
    /// Candidates wait at random up to so long, doubled with every attempt that failed.
    public var backOffNanoseconds: Int64

    public init(leaseNanoseconds: Int64) {
        precondition(leaseNanoseconds >= 10_000_000, "a lease lasts 10 ms at least: \(leaseNanoseconds) ns")
        self.leaseNanoseconds = leaseNanoseconds
        self.heartbeatNanoseconds = leaseNanoseconds / 6
        self.resendNanoseconds = leaseNanoseconds / 4
        self.backOffNanoseconds = leaseNanoseconds / 4
    }

    /// 400 ms: a node that dies is followed within a second, and a pause of a tenth of that goes unnoticed.
    public static let standard = ConsensusTiming(leaseNanoseconds: 400_000_000)

    /// An acceptor grants no lease longer than so, and a restarted one waits so long before it promises anything,
    /// because it has forgotten what it granted.
    var grantNanosecondsMax: Int64 { 2 * leaseNanoseconds }
}
