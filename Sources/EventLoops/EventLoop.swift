import CLinux
import DequeModule
import Glibc
import Synchronization

/// One thread that waits for sockets and timers by epoll, and that is at the same time a Swift executor.
///
/// Connections are actors whose executor is their loop, and tasks that prefer it (`executorPreference: loop`) run on it
/// too, so a round trip to a shard is answered, decoded and continued on one thread without a hop. Several loops work
/// side by side; a connection belongs to one of them. Work on a loop must not block: it holds up everything on it.
///
/// The loop keeps itself alive until ``shutdown()``.
public final class EventLoop: SerialExecutor, TaskExecutor, @unchecked Sendable {
    /// The operating system refused what a loop is made of.
    public struct StartFailure: Error, CustomStringConvertible {
        /// The value of `errno`.
        public let code: Int32
        /// The call that failed.
        public let call: String

        public var description: String { "could not start an event loop: \(call): \(String(cString: strerror(code)))" }
    }

    /// What the loop runs: a piece of a Swift task, or a callback.
    enum Work {
        case job(UnownedJob)
        case callback(@Sendable () -> Void)
    }

    /// What other threads may touch.
    private struct Shared {
        var inbox: [Work] = []
        /// The thread is in, or about to enter, `epoll_pwait2`, and looks at the inbox only after a wake-up.
        var isAsleep = false
        var isShutDown = false
        var hasThread = false
    }

    /// How many pieces of work run before the sockets are looked at again, so that busy tasks can't starve them.
    private static let workPerPollMax = 1024
    /// How many sockets one system call reports.
    private static let eventsPerPollMax = 64

    private let name: String
    private let poller: Int32
    private let wakeUp: Int32
    private let shared = Mutex(Shared())
    /// `pthread_self()` of the loop's thread; 0 when there is none.
    private let threadIdentity = Atomic<UInt>(0)

    // Everything below is touched on the loop's thread only.
    private var queue = Deque<Work>()
    private var handlers: [Int32: any ReadinessHandler] = [:]
    private var timers = TimerQueue()

    /// Starts the thread.
    ///
    /// - Parameter name: what `ps` and `perf` show as the thread's name (its first 15 bytes).
    public init(name: String = "meridian-loop") throws(StartFailure) {
        self.name = name
        poller = epoll_create1(Int32(EPOLL_CLOEXEC))
        guard poller >= 0 else { throw StartFailure(code: errno, call: "epoll_create1") }
        wakeUp = eventfd(0, Int32(EFD_CLOEXEC | EFD_NONBLOCK))
        guard wakeUp >= 0 else {
            let code = errno
            Glibc.close(poller)
            throw StartFailure(code: code, call: "eventfd")
        }
        // Edge-triggered: the counter never has to be read, each write to it is a new edge.
        _ = control(EPOLL_CTL_ADD, wakeUp, events: EPOLLIN.rawValue | EPOLLET.rawValue)
        shared.withLock { $0.hasThread = true }
        startThread()
    }

    deinit {
        Glibc.close(wakeUp)
        Glibc.close(poller)
    }

    /// Ends the thread once nothing is left to run; call it when the loop's connections are closed.
    ///
    /// Timers still pending are dropped. Work that arrives later is still run, on a thread that lives as long as it
    /// takes.
    public func shutdown() {
        shared.withLock { $0.isShutDown = true }
        enqueue(.callback({}))
    }

    /// Whether the caller runs on the loop's thread.
    public var isCurrent: Bool { threadIdentity.load(ordering: .relaxed) == UInt(pthread_self()) }

    // MARK: Executor

    public func enqueue(_ job: consuming ExecutorJob) {
        enqueue(.job(UnownedJob(job)))
    }

    public func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }

    public func checkIsolated() {
        precondition(isCurrent, "not on event loop \(name)")
    }

    public func isIsolatingCurrentContext() -> Bool? { isCurrent }

    /// Runs `body` on the loop's thread, after what is queued there already.
    public func execute(_ body: @escaping @Sendable () -> Void) {
        enqueue(.callback(body))
    }

    private func enqueue(_ work: Work) {
        if isCurrent {
            queue.append(work)
            return
        }
        enum Wake { case none, sleeper, newThread }
        let wake: Wake = shared.withLock { shared in
            shared.inbox.append(work)
            if !shared.hasThread {
                shared.hasThread = true
                return .newThread
            }
            defer { shared.isAsleep = false }
            return shared.isAsleep ? .sleeper : .none
        }
        switch wake {
        case .none: break
        case .sleeper: eventfd_write(wakeUp, 1)
        case .newThread: startThread()
        }
    }

    // MARK: The thread

    private func startThread() {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        defer { pthread_attr_destroy(&attributes) }
        var thread = pthread_t()
        let code = pthread_create(
            &thread, &attributes,
            { argument in
                guard let argument else { return nil }
                Unmanaged<EventLoop>.fromOpaque(argument).takeRetainedValue().runThread()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0, "could not start the thread of event loop \(name): \(String(cString: strerror(code)))")
    }

    private func runThread() {
        name.withCString { _ = prctl_set(PR_SET_NAME, UInt(bitPattern: $0)) }
        // The kernel may delay a timer by the slack, 50 µs by default, to save power; commit-wait can be shorter.
        _ = prctl_set(PR_SET_TIMERSLACK, 1)
        threadIdentity.store(UInt(pthread_self()), ordering: .relaxed)
        var events = [epoll_event](repeating: epoll_event(), count: Self.eventsPerPollMax)
        repeat {
            poll(&events)
            runQueue()
        } while !leave()
    }

    /// Gives the thread up when the loop is shut down and nothing is left to run.
    private func leave() -> Bool {
        guard queue.isEmpty else { return false }
        return shared.withLock { shared in
            guard shared.isShutDown, shared.inbox.isEmpty else { return false }
            shared.hasThread = false
            threadIdentity.store(0, ordering: .relaxed)
            return true
        }
    }

    private func runQueue() {
        for _ in 0..<Self.workPerPollMax {
            switch queue.popFirst() {
            case .job(let job):
                job.runSynchronously(isolatedTo: asUnownedSerialExecutor(), taskExecutor: asUnownedTaskExecutor())
            case .callback(let body): body()
            case nil: return
            }
        }
    }

    /// Waits until there is something to do, then runs the callbacks of sockets and timers.
    private func poll(_ events: inout [epoll_event]) {
        let maySleep =
            queue.isEmpty
            && shared.withLock { shared in
                shared.isAsleep = shared.inbox.isEmpty && !shared.isShutDown
                return shared.isAsleep
            }
        let count = wait(&events, timeout: maySleep ? timers.timeToNext() : .zero)
        shared.withLock { shared in
            shared.isAsleep = false
            guard !shared.inbox.isEmpty else { return }
            queue.append(contentsOf: shared.inbox)
            shared.inbox.removeAll(keepingCapacity: true)
        }
        for event in events.prefix(count) {
            let descriptor = event.data.fd
            // An earlier callback of this batch may have closed the socket. Should a new one have got its number, it
            // merely hears of what is not so; every handler puts up with that, since it looks for itself.
            handlers[descriptor]?.becameReady(Readiness(epollEvents: event.events))
        }
        for body in timers.takeDue() { body() }
    }

    /// Returns how many of `events` were filled in; a `timeout` of nil is for ever.
    private func wait(_ events: inout [epoll_event], timeout: Duration?) -> Int {
        let count = withUnsafePointer(to: timespec(timeout ?? .zero)) { limit in
            epoll_pwait2(poller, &events, Int32(events.count), timeout == nil ? nil : limit, nil)
        }
        // Kernels before 5.11 lack the call; rounding up, timers are then late by up to a millisecond.
        guard count < 0, errno == ENOSYS else { return max(0, Int(count)) }
        let milliseconds = timeout.map { Int32(clamping: Int64(($0 / .milliseconds(1)).rounded(.up))) } ?? -1
        return max(0, Int(epoll_wait(poller, &events, Int32(events.count), milliseconds)))
    }

    // MARK: Sockets

    /// Asks for `handler` to be told of `interest` on a socket, from now until ``unwatch(_:)``; asking again changes
    /// it.
    ///
    /// Level-triggered, so that one `recv` per event is enough. Loop's thread only.
    package func watch(_ descriptor: Int32, for interest: Readiness, handler: any ReadinessHandler) {
        handlers[descriptor] = handler
        // libpq closes a socket and opens another of the same number when it goes to the next host.
        if control(EPOLL_CTL_MOD, descriptor, events: interest.epollEvents) == ENOENT {
            _ = control(EPOLL_CTL_ADD, descriptor, events: interest.epollEvents)
        }
    }

    /// Ends ``watch(_:for:handler:)``. Loop's thread only, and before the socket is closed.
    package func unwatch(_ descriptor: Int32) {
        guard handlers.removeValue(forKey: descriptor) != nil else { return }
        _ = control(EPOLL_CTL_DEL, descriptor, events: 0)
    }

    /// Returns 0 or the value of `errno`.
    private func control(_ operation: Int32, _ descriptor: Int32, events: UInt32) -> Int32 {
        var event = epoll_event(events: events, data: epoll_data_t(fd: descriptor))
        return epoll_ctl(poller, operation, descriptor, &event) == 0 ? 0 : errno
    }

    // MARK: Timers

    /// Runs `body` on the loop's thread at `deadline`. Loop's thread only.
    package func addTimer(at deadline: ContinuousClock.Instant, _ body: @escaping @Sendable () -> Void) -> TimerQueue.ID
    {
        timers.add(at: deadline, body)
    }

    /// Forgets a timer that has not run yet. Loop's thread only.
    package func removeTimer(_ timer: TimerQueue.ID) {
        timers.remove(timer)
    }
}

/// What a socket is ready for, or is watched for.
package struct Readiness: OptionSet, Sendable {
    package let rawValue: UInt8

    package static let readable = Readiness(rawValue: 1)
    package static let writable = Readiness(rawValue: 2)
    /// The other side sends nothing more: reported also while nobody wants to read.
    package static let hungUp = Readiness(rawValue: 4)

    package init(rawValue: UInt8) {
        self.rawValue = rawValue
    }

    /// An error or the end of both directions is all of them: the next read or write tells what it was.
    init(epollEvents events: UInt32) {
        let broken = events & (EPOLLERR.rawValue | EPOLLHUP.rawValue) != 0
        self = []
        if broken || events & EPOLLRDHUP.rawValue != 0 { insert(.hungUp) }
        if broken || events & EPOLLIN.rawValue != 0 { insert(.readable) }
        if broken || events & EPOLLOUT.rawValue != 0 { insert(.writable) }
    }

    var epollEvents: UInt32 {
        (contains(.readable) ? EPOLLIN.rawValue : 0) | (contains(.writable) ? EPOLLOUT.rawValue : 0)
            | (contains(.hungUp) ? EPOLLRDHUP.rawValue : 0)
    }
}

/// Is told on the loop's thread when its socket is ready.
package protocol ReadinessHandler: AnyObject {
    func becameReady(_ readiness: Readiness)
}

extension timespec {
    /// `duration`, or zero when it is negative.
    fileprivate init(_ duration: Duration) {
        let (seconds, attoseconds) = max(duration, .zero).components
        self.init(tv_sec: Int(seconds), tv_nsec: Int(attoseconds / 1_000_000_000))
    }
}
