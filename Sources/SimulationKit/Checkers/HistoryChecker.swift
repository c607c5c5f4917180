/// A rule that a history breaks, and the transactions and reads that witness it.
public struct Violation: Hashable, Sendable, CustomStringConvertible {
    /// The checker that found it.
    public let checker: String
    /// What is wrong, with the witnesses by name.
    public let message: String
    /// The witnesses' numbers.
    public let witnesses: [Int]

    public var description: String { "\(checker): \(message)" }
}

/// Judges a history: returns the first ways in which it breaks a rule, or nothing.
public protocol HistoryChecker: Sendable {
    init()
    func check(_ history: History) -> [Violation]
}

extension HistoryChecker {
    func violation(_ message: String, _ witnesses: Int...) -> Violation {
        Violation(checker: "\(Self.self)", message: message, witnesses: witnesses)
    }
}

extension History {
    /// Every checker, the simplest rules first.
    public static let checkers: [any HistoryChecker.Type] = [
        ProgressChecker.self, ResidueChecker.self, AtomicityChecker.self, OutcomeChecker.self,
        UniqueTimestampChecker.self,
        ConservationChecker.self, ConflictOrderChecker.self, RealTimeOrderChecker.self, StrongReadChecker.self,
        ReadBoundChecker.self, SnapshotReadChecker.self,
    ]

    /// What all checkers find.
    public func violations() -> [Violation] {
        Self.checkers.flatMap { $0.init().check(self) }
    }
}
