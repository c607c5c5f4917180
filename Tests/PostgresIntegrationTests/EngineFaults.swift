import BoundedTime
import Synchronization
import SystemClock
import Testing
import TransactionCore
import TransactionEngine

/// Holds the first commit that comes to one fault point after ``arm()``, until ``open()``.
final class CommitGate: Sendable {
    private struct State {
        var isArmed = false
        var arrival: TransactionID?
        var held: CheckedContinuation<Void, Never>?
    }

    private let point: FaultPoint
    private let state = Mutex(State())

    init(at point: FaultPoint) {
        self.point = point
    }

    /// What an engine is to call.
    var hook: FaultHook {
        { [self] point, id in
            guard point == self.point else { return }
            await withCheckedContinuation { continuation in
                let isHeld = state.withLock { state in
                    guard state.isArmed else { return false }
                    state = State(arrival: id, held: continuation)
                    return true
                }
                if !isHeld { continuation.resume() }
            }
        }
    }

    func arm() {
        state.withLock { $0 = State(isArmed: true) }
    }

    /// Waits until a commit has come, and says which.
    func arrival() async throws -> TransactionID {
        try await waitUntil("a commit comes to \(point)") { state.withLock { $0.arrival != nil } }
        return try #require(state.withLock { $0.arrival })
    }

    /// Lets go of what it holds.
    func open() {
        let held = state.withLock { state in
            defer { state.held = nil }
            state.isArmed = false
            return state.held
        }
        held?.resume()
    }
}

/// Does something once, when the first commit comes to one fault point after ``arm(_:)``.
final class CommitFault: Sendable {
    typealias Act = @Sendable (TransactionID) async -> Void

    private let armed = Mutex<(point: FaultPoint, act: Act)?>(nil)
    private let last = Mutex<TransactionID?>(nil)

    /// What an engine is to call.
    var hook: FaultHook {
        { [self] point, id in
            let act = armed.withLock { armed -> Act? in
                guard let fault = armed, fault.point == point else { return nil }
                armed = nil
                return fault.act
            }
            guard let act else { return }
            last.withLock { $0 = id }
            await act(id)
        }
    }

    /// The transaction it struck.
    var struck: TransactionID? { last.withLock { $0 } }

    func arm(at point: FaultPoint, _ act: @escaping Act) {
        last.withLock { $0 = nil }
        armed.withLock { $0 = (point, act) }
    }
}

/// The machine's clock, shifted and made uncertain, or refusing, as a test says.
final class AdjustableClock: IntervalClock {
    private struct State {
        var uncertainty: Duration
        var shift: Duration
        var refusal: ClockError?
    }

    private let machine = SystemBoundedClock(source: .host(uncertainty: .zero))
    private let state: Mutex<State>

    init(uncertainty: Duration = .milliseconds(1), shift: Duration = .zero) {
        state = Mutex(State(uncertainty: uncertainty, shift: shift))
    }

    func now() throws(ClockError) -> TimestampInterval {
        let now = try machine.now()
        let state = state.withLock { $0 }
        if let refusal = state.refusal { throw refusal }
        return TimestampInterval(
            earliest: now.earliest.advanced(byNanoseconds: (state.shift - state.uncertainty).nanoseconds),
            latest: now.latest.advanced(byNanoseconds: (state.shift + state.uncertainty).nanoseconds))
    }

    /// Gives no timestamps from here on; nil ends that.
    func refuse(_ error: ClockError?) {
        state.withLock { $0.refusal = error }
    }
}
