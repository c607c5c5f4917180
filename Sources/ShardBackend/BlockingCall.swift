import Glibc
import Synchronization

/// A call that may block for long, on a thread that ends with it.
enum BlockingCall {
    private final class Body {
        let call: @Sendable () -> Void

        init(_ call: @escaping @Sendable () -> Void) {
            self.call = call
        }
    }

    /// Returns false when the system has no thread to give.
    static func run(_ call: @escaping @Sendable () -> Void) -> Bool {
        let body = Unmanaged.passRetained(Body(call))
        var thread = pthread_t()
        let code = pthread_create(
            &thread, nil,
            { argument in
                if let argument { Unmanaged<Body>.fromOpaque(argument).takeRetainedValue().call() }
                return nil
            }, body.toOpaque())
        guard code == 0 else {
            body.release()
            return false
        }
        pthread_detach(thread)
        return true
    }
}

/// One value from one thread to one task: the first that is given counts.
final class Answer<Value: Sendable>: Sendable {
    private enum State {
        case open(waiter: UnsafeContinuation<Value?, Never>?)
        case given(Value?)
    }

    private let state = Mutex(State.open(waiter: nil))

    /// Nil stands for giving up.
    func give(_ value: Value?) {
        let waiter: UnsafeContinuation<Value?, Never>? = state.withLock { state in
            guard case .open(let waiter) = state else { return nil }
            state = .given(value)
            return waiter
        }
        waiter?.resume(returning: value)
    }

    /// To be called once.
    func wait() async -> Value? {
        await withUnsafeContinuation { continuation in
            let given: Value?? = state.withLock { state in
                guard case .given(let value) = state else {
                    state = .open(waiter: continuation)
                    return nil
                }
                return value
            }
            if let given { continuation.resume(returning: given) }
        }
    }
}
