import Foundation
import Synchronization

/// How far long work has come: a line on standard error that a terminal shows in place of the one before. Elsewhere, in
/// a log say, it is one line a second.
final class ProgressLine: Sendable {
    private let isTerminal = isatty(STDERR_FILENO) == 1
    private let next = Mutex(ContinuousClock.now)

    /// Shows `text`, unless the last one was shown a moment ago.
    func show(_ text: String) {
        let isDue = next.withLock { next in
            guard ContinuousClock.now >= next else { return false }
            next = .now + (isTerminal ? .milliseconds(100) : .milliseconds(900))
            return true
        }
        if isDue { FileHandle.standardError.write(Data((isTerminal ? "\r\(text)\u{1B}[K" : "\(text)\n").utf8)) }
    }

    /// Takes the line away.
    func clear() {
        if isTerminal { FileHandle.standardError.write(Data("\r\u{1B}[K".utf8)) }
    }
}
