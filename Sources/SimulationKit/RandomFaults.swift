/// Lets things go wrong at random moments, until it is over; its subclasses know what.
class RandomFaults {
    private let scheduler: Scheduler
    final var random: SeededGenerator
    final var isOver = false

    init(scheduler: Scheduler) {
        self.scheduler = scheduler
        self.random = scheduler.random.split()
    }

    /// Lets `fault` happen again and again, with that mean time between two; never when there is none.
    final func repeating(_ mean: Nanoseconds?, _ fault: @escaping () -> Void) {
        guard let mean else { return }
        scheduler.after(random.number(in: 0...2 * mean)) { [self] in
            guard !isOver else { return }
            fault()
            repeating(mean, fault)
        }
    }
}
