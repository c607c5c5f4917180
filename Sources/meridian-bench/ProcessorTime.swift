import Foundation

/// Processor time in seconds, by who spent it. What else the machine does is not in it.
struct ProcessorTime {
    /// This process: the clients and the coordinator.
    var own = 0.0
    /// The PostgreSQL servers with all their sessions.
    var servers = 0.0

    /// What this process and the living ones of the servers have spent so far.
    ///
    /// - Parameter servers: the process numbers of the postmasters.
    static func spent(servers: [Int32]) -> ProcessorTime {
        var usage = rusage()
        getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
        var time = ProcessorTime()
        time.own = seconds(usage.ru_utime) + seconds(usage.ru_stime)
        let entries = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        for processID in entries.compactMap({ Int32($0) }) {
            guard servers.contains(processID) || parent(of: processID).map(servers.contains) == true else { continue }
            time.servers += schedulerSeconds(of: processID)
        }
        return time
    }

    /// What the threads of another process, none of which may have ended, have spent.
    static func ofThreads(_ processID: Int32) -> Double {
        let threads = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(processID)/task")) ?? []
        return threads.reduce(0) { $0 + seconds(of: "/proc/\(processID)/task/\($1)/schedstat") }
    }

    /// What another process has spent with all its threads, those that have ended too; 0 where it is there no more.
    static func ofProcess(_ processID: Int32) -> Double {
        var (clock, time) = (clockid_t(), timespec())
        guard clock_getcpuclockid(processID, &clock) == 0, clock_gettime(clock, &time) == 0 else { return 0 }
        return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
    }

    static func - (left: ProcessorTime, right: ProcessorTime) -> ProcessorTime {
        ProcessorTime(own: left.own - right.own, servers: left.servers - right.servers)
    }

    static func += (left: inout ProcessorTime, right: ProcessorTime) {
        left.own += right.own
        left.servers += right.servers
    }

    private static func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }

    private static func parent(of processID: Int32) -> Int32? {
        guard let text = try? String(contentsOfFile: "/proc/\(processID)/stat", encoding: .isoLatin1),
            let nameEnd = text.lastIndex(of: ")")
        else { return nil }
        return text[nameEnd...].split(separator: " ").dropFirst(2).first.flatMap { Int32($0) }
    }

    /// Exact, where the ticks in `/proc/PID/stat` are samples (Documentation/scheduler/sched-stats of Linux).
    private static func schedulerSeconds(of processID: Int32) -> Double { seconds(of: "/proc/\(processID)/schedstat") }

    private static func seconds(of schedulerStatistics: String) -> Double {
        let text = (try? String(contentsOfFile: schedulerStatistics, encoding: .isoLatin1)) ?? ""
        return (text.split(separator: " ").first.flatMap { Double($0) } ?? 0) / 1e9
    }
}
