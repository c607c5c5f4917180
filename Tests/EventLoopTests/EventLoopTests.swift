import Glibc
import Synchronization
import TestSupport
import Testing

@testable import EventLoops

@Suite struct EventLoopTests {
    private actor Counter {
        nonisolated let loop: EventLoop
        private(set) var value = 0
        private(set) var strayed = false

        init(loop: EventLoop) {
            self.loop = loop
        }

        nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

        func increment() async {
            strayed = strayed || !loop.isCurrent
            value += 1
            await Task.yield()
            strayed = strayed || !loop.isCurrent
        }
    }

    @Test("actors and tasks that prefer a loop run on its thread only, whoever calls")
    func executor() async throws {
        let loop = try EventLoop(name: "executor-test")
        defer { loop.shutdown() }
        let counter = Counter(loop: loop)
        let strayed = Mutex(false)
        await withTaskGroup(of: Void.self) { group in
            for number in 0..<1000 {
                let increment: @Sendable () async -> Void = {
                    for _ in 0..<10 {
                        await counter.increment()
                        if number.isMultiple(of: 2), !loop.isCurrent { strayed.withLock { $0 = true } }
                    }
                }
                if number.isMultiple(of: 2) {
                    group.addTask(executorPreference: loop, operation: increment)
                } else {
                    group.addTask(operation: increment)
                }
            }
        }
        #expect(await counter.value == 10_000)
        #expect(await !counter.strayed && !strayed.withLock { $0 })
    }

    private final class Unwatchable: ReadinessHandler {
        let told: CheckedContinuation<Int32, Never>

        init(_ told: CheckedContinuation<Int32, Never>) {
            self.told = told
        }

        func becameReady(_ readiness: Readiness) {}

        func watchFailed(_ error: Int32) { told.resume(returning: error) }
    }

    @Test("who has a socket watched that can't be is told")
    func unwatchable() async throws {
        let loop = try EventLoop(name: "watch-test")
        defer { loop.shutdown() }
        let error = await withCheckedContinuation { told in
            loop.execute { loop.watch(-1, for: .readable, handler: Unwatchable(told)) }
        }
        #expect(error == EBADF)
    }

    @Test("a sleep ends no earlier than its deadline and, on an idle machine, soon after it")
    func sleep() async throws {
        let loop = try EventLoop(name: "sleep-test")
        defer { loop.shutdown() }
        let soonest = try await Task(executorPreference: loop) {
            var soonest = Duration.seconds(10)
            for _ in 0..<100 {
                let deadline = ContinuousClock.now + .microseconds(300)
                try await loop.sleep(until: deadline)
                let late = deadline.duration(to: .now)
                #expect(late >= .zero)
                soonest = min(soonest, late)
            }
            return soonest
        }.value
        #expect(soonest < .milliseconds(1), "even the best of a hundred was late")
    }

    @Test("timers fire in the order of their deadlines, and those cancelled never")
    func timers() async throws {
        let loop = try EventLoop(name: "timer-test")
        defer { loop.shutdown() }
        let fired = Mutex<[Int]>([])
        // Those that are due before they are made fire in the order they are made.
        let start = ContinuousClock.now + .milliseconds(500)
        let timers = (0..<1000).shuffled().map { number in
            (number, loop.schedule(at: start + .microseconds(number * 10)) { fired.withLock { $0.append(number) } })
        }
        for (number, timer) in timers where number.isMultiple(of: 3) { timer.cancel() }
        try await loop.sleep(until: start + .milliseconds(30))
        #expect(fired.withLock { $0 } == (0..<1000).filter { !$0.isMultiple(of: 3) })
    }

    @Test("a cancelled sleep ends at once with a CancellationError")
    func cancelledSleep() async throws {
        let loop = try EventLoop(name: "cancel-test")
        defer { loop.shutdown() }
        for isPrompt in [true, false] {
            let task = Task { try await loop.sleep(for: .seconds(60)) }
            if !isPrompt { try await Task.sleep(for: .milliseconds(5)) }
            task.cancel()
            await #expect(throws: CancellationError.self) { try await task.value }
        }
    }

    @Test("removed timers do not pile up")
    func removal() {
        var timers = TimerQueue()
        for _ in 0..<10_000 { timers.remove(timers.add(at: .now + .seconds(60)) {}) }
        #expect(timers.pendingCount < 200)
        #expect(timers.timeToNext() == nil)
    }

    @Test("work that arrives after the shutdown is still run, and nothing keeps the loop alive then")
    func shutdown() async throws {
        weak var released: EventLoop?
        do {
            let loop = try EventLoop(name: "shutdown-test")
            released = loop
            let counter = Counter(loop: loop)
            await counter.increment()
            loop.shutdown()
            try await Task.sleep(for: .milliseconds(10))
            await counter.increment()
            #expect(await counter.value == 2)
        }
        #expect(await eventually { released == nil })
    }
}
