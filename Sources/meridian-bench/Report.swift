import Foundation
import Histogram

/// What one system did in one cell of a benchmark.
struct Measurement: Codable {
    var system: String
    var clients: Int
    var operations: Int
    var seconds: Double
    /// Latencies in milliseconds, as far as they are known.
    var mean: Double?
    var p50: Double?
    var p99: Double?
    /// Processor time of this process, clients and coordinator, or of the process that is measured, or of the program
    /// that the clients are in, for one operation, in microseconds.
    var ownMicroseconds: Double
    /// Processor time of the servers for one operation, in microseconds.
    var serverMicroseconds: Double

    var perSecond: Double { Double(operations) / seconds }

    init(system: String, clients: Int, latencies: Histogram<UInt32>, seconds: Double, processor: ProcessorTime) {
        self.system = system
        self.clients = clients
        self.seconds = seconds
        operations = Int(latencies.totalCount)
        mean = latencies.mean / 1000
        p50 = Double(latencies.valueAtPercentile(50)) / 1000
        p99 = Double(latencies.valueAtPercentile(99)) / 1000
        ownMicroseconds = processor.own * 1e6 / Double(max(1, operations))
        serverMicroseconds = processor.servers * 1e6 / Double(max(1, operations))
    }

    /// Of a program that tells the mean latency only.
    init(system: String, clients: Int, operations: Int, seconds: Double, mean: Double, processor: ProcessorTime) {
        (self.system, self.clients, self.operations, self.seconds) = (system, clients, operations, seconds)
        self.mean = mean
        ownMicroseconds = processor.own * 1e6 / Double(max(1, operations))
        serverMicroseconds = processor.servers * 1e6 / Double(max(1, operations))
    }
}

/// The figures of one run.
struct BenchReport: Codable {
    var benchmark: String
    var machine: String
    /// What it was measured against or on, with its version.
    var software: String
    var measurements: [Measurement] = []
    var ratios: [String: Double] = [:]

    init(benchmark: String, software: String) {
        self.benchmark = benchmark
        self.software = software
        machine = Self.describeMachine()
    }

    /// Prints `measurements` as they come.
    mutating func add(_ measurement: Measurement) {
        if measurements.isEmpty {
            print(Self.row("system", "clients", "per s", "mean ms", "p50 ms", "p99 ms", "own µs", "servers µs"))
        }
        measurements.append(measurement)
        print(
            Self.row(
                measurement.system, String(measurement.clients), String(Int(measurement.perSecond)),
                measurement.mean.map(Self.decimal) ?? "", measurement.p50.map(Self.decimal) ?? "",
                measurement.p99.map(Self.decimal) ?? "",
                String(Int(measurement.ownMicroseconds)), String(Int(measurement.serverMicroseconds))))
    }

    func find(_ system: String, clients: Int) -> Measurement? {
        measurements.first { $0.system == system && $0.clients == clients }
    }

    /// Notes how `name` relates.
    mutating func addRatio(_ name: String, _ value: Double) {
        ratios[name] = (value * 1000).rounded() / 1000
    }

    /// Prints the ratios and writes the file, if one is asked for.
    func finish(json path: String?) throws {
        print("\nratios (\(machine); \(software))")
        for (name, value) in ratios.sorted(by: { $0.key.localizedStandardCompare($1.key) == .orderedAscending }) {
            print("  \(name.padding(toLength: 60, withPad: " ", startingAt: 0)) \(Self.decimal(value))")
        }
        guard let path else { return }
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
        try encoder.encode(self).write(to: URL(filePath: path))
    }

    static func decimal(_ value: Double) -> String { String(format: "%.2f", value) }

    private static func row(_ cells: String...) -> String {
        cells.enumerated().map { index, cell in
            let width = index == 0 ? 28 : 10
            return index == 0
                ? cell.padding(toLength: width, withPad: " ", startingAt: 0)
                : String(repeating: " ", count: max(1, width - cell.count)) + cell
        }.joined()
    }

    private static func describeMachine() -> String {
        let cpu =
            (try? String(contentsOfFile: "/proc/cpuinfo", encoding: .utf8))?
            .split(separator: "\n").first { $0.hasPrefix("model name") }?.split(separator: ":").last
            .map { $0.trimmingCharacters(in: .whitespaces) } ?? "unknown processor"
        let memory = ProcessInfo.processInfo.physicalMemory >> 30
        return "\(ProcessInfo.processInfo.processorCount) cores of \(cpu), \(memory) GiB"
    }
}
