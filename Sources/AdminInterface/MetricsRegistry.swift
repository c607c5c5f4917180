import Metrics
import Synchronization

/// What this process counts and measures (swift-metrics), in Prometheus' text format, version 0.0.4.
///
/// Counters end in `_total`, gauges and recorders have the value last recorded, timers are told by their sum and count.
public final class MetricsRegistry: MetricsFactory, Sendable {
    fileprivate enum Kind: String {
        case counter, gauge, summary
    }

    /// A metric with its labels: `{shard="east"}`, or nothing.
    private struct Series: Hashable {
        var name: String
        var labels: String
    }

    private struct State {
        var kinds: [String: Kind] = [:]
        var meters: [Series: Meter] = [:]
    }

    private let state = Mutex(State())

    public init() {}

    /// All that has been recorded; `more` are metrics of which something else keeps the values.
    public func text(adding more: [MetricSample] = []) -> String {
        var families: [String: (kind: Kind, lines: [String])] = [:]
        func add(_ name: String, _ kind: Kind, _ line: String) {
            families[name, default: (kind, [])].lines.append(line)
        }
        let (kinds, meters) = state.withLock { ($0.kinds, $0.meters) }
        for (series, meter) in meters {
            let kind = kinds[series.name] ?? .gauge
            let (sum, count) = meter.values
            switch kind {
            case .counter: add("\(series.name)_total", kind, "\(series.name)_total\(series.labels) \(Self.text(sum))")
            case .gauge: add(series.name, kind, "\(series.name)\(series.labels) \(Self.text(sum))")
            case .summary:
                add(series.name, kind, "\(series.name)_count\(series.labels) \(count)")
                add(series.name, kind, "\(series.name)_sum\(series.labels) \(Self.text(sum))")
            }
        }
        for sample in more {
            let kind: Kind = sample.isCounter ? .counter : .gauge
            add(sample.name, kind, "\(sample.name)\(Self.labels(sample.labels)) \(Self.text(sample.value))")
        }
        return families.sorted { $0.key < $1.key }.map { name, family in
            "# TYPE \(name) \(family.kind.rawValue)\n" + family.lines.sorted().map { $0 + "\n" }.joined()
        }.joined()
    }

    private static func text(_ value: Double) -> String {
        value == value.rounded() && abs(value) < 9e15 ? "\(Int64(value))" : "\(value)"
    }

    private static func labels(_ labels: [(String, String)]) -> String {
        guard !labels.isEmpty else { return "" }
        let pairs = labels.map { name, value in
            let escaped = value.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n")
            return "\(name)=\"\(escaped)\""
        }
        return "{" + pairs.joined(separator: ",") + "}"
    }

    // MARK: MetricsFactory

    private func meter(_ label: String, _ dimensions: [(String, String)], _ kind: Kind) -> Meter {
        state.withLock { state in
            let name = kind == .summary && !label.hasSuffix("_seconds") ? label + "_seconds" : label
            state.kinds[name] = kind
            let series = Series(name: name, labels: Self.labels(dimensions))
            if let meter = state.meters[series] { return meter }
            let meter = Meter()
            state.meters[series] = meter
            return meter
        }
    }

    public func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler {
        meter(label, dimensions, .counter)
    }

    public func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler {
        meter(label, dimensions, .gauge)
    }

    public func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        meter(label, dimensions, .gauge)
    }

    public func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler {
        meter(label, dimensions, .summary)
    }

    // What has been counted stays: a pool that is opened anew goes on with it.
    public func destroyCounter(_ handler: any CounterHandler) {}
    public func destroyMeter(_ handler: any MeterHandler) {}
    public func destroyRecorder(_ handler: any RecorderHandler) {}
    public func destroyTimer(_ handler: any TimerHandler) {}
}

/// A metric that is asked for when it is wanted.
public struct MetricSample: Sendable {
    public var name: String
    public var labels: [(String, String)]
    public var value: Double
    /// It only grows.
    public var isCounter: Bool

    public init(_ name: String, _ labels: [(String, String)] = [], _ value: Double, isCounter: Bool = false) {
        (self.name, self.labels, self.value, self.isCounter) = (name, labels, value, isCounter)
    }
}

/// One series' values.
private final class Meter: CounterHandler, MeterHandler, RecorderHandler, TimerHandler {
    private let state = Mutex<(sum: Double, count: UInt64)>((0, 0))

    var values: (sum: Double, count: UInt64) { state.withLock { $0 } }

    func increment(by amount: Int64) { state.withLock { $0.sum += Double(amount) } }
    func reset() { state.withLock { $0 = (0, 0) } }
    func set(_ value: Int64) { set(Double(value)) }
    func set(_ value: Double) { state.withLock { $0.sum = value } }
    func increment(by amount: Double) { state.withLock { $0.sum += amount } }
    func decrement(by amount: Double) { state.withLock { $0.sum -= amount } }
    func record(_ value: Int64) { set(Double(value)) }
    func record(_ value: Double) { set(value) }
    func recordNanoseconds(_ duration: Int64) {
        state.withLock { state in
            state.sum += Double(duration) / 1e9
            state.count += 1
        }
    }
}
