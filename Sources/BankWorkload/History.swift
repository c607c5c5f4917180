import Foundation
import Synchronization
import TransactionCore

/// One acknowledged transfer as its client saw it.
public struct HistoryEntry: Hashable, Sendable {
    /// Before the client began; nanoseconds of the machine's clock since it booted.
    public var began: Int64
    /// After the client was told of the commit; the same clock.
    public var acknowledged: Int64
    public var commitTimestamp: Timestamp
}

/// The file that a run appends each acknowledged transfer to, at once, so that a run that is killed leaves it behind.
///
/// A first line names the machine's boot, since clocks of two boots can't be compared; then one line an entry, three
/// decimal numbers. Several runs append to one file.
public final class HistoryFile: Sendable {
    /// Why a history can't be used.
    public struct Unusable: Error, CustomStringConvertible {
        public let description: String
    }

    private let handle: Mutex<FileHandle>

    /// Opens the file, making it when it is not there. An unfinished last line is cut off.
    public init(appendingTo path: String) throws {
        if let data = FileManager.default.contents(atPath: path), !data.isEmpty {
            try Self.checkHeader(data, path)
        } else if !FileManager.default.createFile(atPath: path, contents: Data(Self.header.utf8)) {
            throw Unusable(description: "could not create the history \(path)")
        }
        guard let file = FileHandle(forUpdatingAtPath: path) else {
            throw Unusable(description: "could not write to the history \(path)")
        }
        let data = try file.readToEnd() ?? Data()
        let end = data.lastIndex(of: UInt8(ascii: "\n")).map { UInt64($0) + 1 } ?? 0
        try file.truncate(atOffset: end)
        handle = Mutex(file)
    }

    /// Appends an entry.
    public func append(_ entry: HistoryEntry) throws {
        let line = Data("\(entry.began) \(entry.acknowledged) \(entry.commitTimestamp)\n".utf8)
        try handle.withLock { try $0.write(contentsOf: line) }
    }

    /// Reads a history. An unfinished last line, which a killed run may leave, is passed over.
    public static func read(_ path: String) throws -> [HistoryEntry] {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw Unusable(
                description: "there is no history at \(path)\nHINT:  name the file that `meridian bank run` wrote")
        }
        try checkHeader(data, path)
        let lines = data.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).dropLast()
        return try lines.enumerated().dropFirst().map { index, line in
            let numbers = String(decoding: line, as: UTF8.self).split(separator: " ").compactMap { Int64($0) }
            guard numbers.count == 3, numbers[0] <= numbers[1] else {
                throw Unusable(description: "line \(index + 1) of \(path) is damaged")
            }
            return HistoryEntry(
                began: numbers[0], acknowledged: numbers[1], commitTimestamp: Timestamp(rawValue: numbers[2]))
        }
    }

    private static func checkHeader(_ data: Data, _ path: String) throws {
        guard data.starts(with: header.utf8) else {
            throw Unusable(
                description: "\(path) is not a history of this boot of this machine\n"
                    + "HINT:  name another file, or delete this one")
        }
    }

    /// Now, by the clock of ``HistoryEntry``.
    static func now() -> Int64 {
        var time = timespec()
        clock_gettime(CLOCK_BOOTTIME, &time)
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }

    private static let header: String = {
        let boot = FileManager.default.contents(atPath: "/proc/sys/kernel/random/boot_id") ?? Data()
        return "meridian bank history, boot \(String(decoding: boot.prefix { $0 != 0x0A }, as: UTF8.self))\n"
    }()
}
