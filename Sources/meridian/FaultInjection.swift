import Foundation
import Synchronization
import TransactionEngine

/// Kills this process at a named moment of a commit, for tests of recovery: the variable MERIDIAN_FAULT holds
/// `POINT` or `POINT:COUNT`, and the process gets SIGKILL when it has reached that point so many times.
enum FaultInjection {
    /// The hook that the environment asks for; nil when it asks for none.
    static func hook(from environment: [String: String]) throws -> FaultHook? {
        guard let text = environment["MERIDIAN_FAULT"], !text.isEmpty else { return nil }
        let parts = text.split(separator: ":", maxSplits: 1)
        let count = parts.count == 2 ? Int(parts[1]) : 1
        guard let point = parts.first.flatMap({ FaultPoint(rawValue: String($0)) }), let count, count > 0 else {
            let points = FaultPoint.allCases.map(\.rawValue).joined(separator: ", ")
            throw ConfigurationError(
                "MERIDIAN_FAULT=\(text) names no fault point", hint: "write POINT:COUNT with one of \(points)")
        }
        let reached = Mutex(0)
        return { here, _ in
            guard here == point else { return }
            let times = reached.withLock { reached in
                reached += 1
                return reached
            }
            if times == count { kill(getpid(), SIGKILL) }
        }
    }
}
