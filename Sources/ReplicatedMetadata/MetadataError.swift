import TransactionCore

/// Why the metadata did not answer, in PostgreSQL's form.
public struct MetadataError: ReportedError, Hashable {
    /// The numbers are what nodes tell others.
    public enum Kind: UInt8, Hashable, Sendable {
        /// No leader answered in time. What was to be done may have been, or may be yet.
        case noLeader = 1
        /// This node can't take part any more.
        case failed
        /// It is larger than what the log takes.
        case tooLarge
        /// This node ends.
        case stopped
        /// The leader does not do that, now or at all.
        case refused
    }

    public var kind: Kind
    public var message: String
    public var detail: String?
    public var hint: String?

    /// Another node may be able to do it.
    var isOfOneNode: Bool { [.noLeader, .failed, .stopped].contains(kind) }

    public init(_ kind: Kind, _ message: String, detail: String? = nil, hint: String? = nil) {
        (self.kind, self.message, self.detail, self.hint) = (kind, message, detail, hint)
    }

    /// Whoever waited does not any more. What was to be done may have been, or may be yet.
    static let cancelled = MetadataError(.stopped, "the wait for the metadata was cancelled")
}
