import TransactionCore

/// Nanoseconds of simulated time.
typealias Nanoseconds = Int64

let microsecond: Nanoseconds = 1_000
let millisecond: Nanoseconds = 1_000_000
let second: Nanoseconds = 1_000_000_000

/// True time and what is to happen when: a discrete-event simulation in one thread.
///
/// Events of one moment happen in the order in which they were scheduled, so a run is a function of its seed.
final class Scheduler {
    /// Where every run begins: any moment that real timestamps may have (here 14 November 2023).
    static let epoch = Timestamp(rawValue: 1_700_000_000_000_000_000)

    /// The true time, which no node can read.
    private(set) var now = Scheduler.epoch
    var random: SeededGenerator
    private(set) var trace: [TraceEvent] = []
    private var events = EventQueue()
    private(set) var eventCount = 0

    init(seed: UInt64) {
        random = SeededGenerator(seed: seed)
    }

    /// Lets `body` happen after `delay`.
    func after(_ delay: Nanoseconds, _ body: @escaping () -> Void) {
        eventCount += 1
        events.insert(EventQueue.Event(time: now.rawValue + max(0, delay), number: eventCount, body: body))
    }

    /// Lets things happen until `isOver` says so or `deadline` is reached.
    func run(until deadline: Timestamp, orUntil isOver: () -> Bool = { false }) {
        while !isOver() {
            guard let time = events.firstTime, time <= deadline.rawValue else { return now = deadline }
            now = Timestamp(rawValue: time)
            events.removeFirst().body()
        }
    }

    /// Nothing that was to happen will.
    func cancelAll() {
        events = EventQueue()
    }

    /// Notes what happened, for people and for the test that one seed gives one run.
    func note(_ place: TraceEvent.Place, _ what: String, number: Int? = nil, timestamp: Timestamp? = nil) {
        trace.append(TraceEvent(time: now, place: place, what: what, number: number, timestamp: timestamp))
    }
}
