import Foundation
import TestSupport
import Testing
import TransactionCore

@testable import BankWorkload

/// The check must reject histories and logs that are wrong.
@Suite struct BankCheckTests {
    private func makeEntry(_ began: Int64, _ acknowledged: Int64, at timestamp: Int64) -> HistoryEntry {
        HistoryEntry(
            began: began, acknowledged: acknowledged, commitTimestamp: Timestamp(rawValue: timestamp))
    }

    private func makeRow(_ shard: String, at timestamp: Int64, _ participants: String) -> BankCheck.LogRow {
        BankCheck.LogRow(
            shard: ShardID(shard)!, timestamp: Timestamp(rawValue: timestamp),
            participants: participants.split(separator: ","))
    }

    private func judge(_ rows: [BankCheck.LogRow], _ history: [HistoryEntry] = []) -> BankFindings {
        var findings = BankFindings()
        BankCheck.judge(rows, history, &findings)
        return findings
    }

    private func checkRejects(_ history: [HistoryEntry], _ first: Int64, _ second: Int64) {
        let violations = BankCheck.realTimeViolations(in: history)
        #expect(violations.count == 1)
        #expect(violations.first?.first.commitTimestamp.rawValue == first)
        #expect(violations.first?.second.commitTimestamp.rawValue == second)
    }

    @Test("a transfer that began after another was acknowledged and has the smaller timestamp is found")
    func realTime() {
        checkRejects([makeEntry(0, 10, at: 200), makeEntry(11, 20, at: 100)], 200, 100)
        checkRejects([makeEntry(11, 20, at: 100), makeEntry(0, 10, at: 200)], 200, 100)
        checkRejects([makeEntry(0, 10, at: 100), makeEntry(11, 20, at: 100)], 100, 100)
        // The one to beat was acknowledged long ago, and others since.
        checkRejects(
            [
                makeEntry(0, 10, at: 500), makeEntry(0, 12, at: 100), makeEntry(1, 14, at: 300),
                makeEntry(20, 30, at: 400),
            ], 500, 400)
    }

    @Test("transfers that ran at the same time may have any order, and those in order are passed")
    func realTimeHolds() {
        #expect(BankCheck.realTimeViolations(in: []).isEmpty)
        #expect(
            BankCheck.realTimeViolations(in: [makeEntry(0, 10, at: 200), makeEntry(10, 20, at: 100)]).isEmpty)
        #expect(
            BankCheck.realTimeViolations(in: [
                makeEntry(0, 10, at: 100), makeEntry(11, 20, at: 200), makeEntry(5, 30, at: 50),
                makeEntry(31, 32, at: 300),
            ]).isEmpty)
    }

    @Test("real-time violations found are those that comparing every pair finds", arguments: UInt64(1)...20)
    func realTimeAgainstPairs(seed: UInt64) {
        var generator = SeededGenerator(seed: seed)
        let history = (0..<40).map { _ in
            let began = Int64.random(in: 0..<200, using: &generator)
            return makeEntry(
                began, began + .random(in: 1...30, using: &generator),
                at: began + .random(in: 0...60, using: &generator))
        }
        let violated = history.filter { second in
            history.contains { $0.acknowledged < second.began && $0.commitTimestamp >= second.commitTimestamp }
        }
        #expect(Set(BankCheck.realTimeViolations(in: history).map(\.second)) == Set(violated))
    }

    @Test("a transaction that is missing on one of its shards is found")
    func halfApplied() {
        let findings = judge([makeRow("a", at: 1, "a,b"), makeRow("a", at: 2, "a"), makeRow("b", at: 3, "b")])
        #expect(findings.halfApplied == [Timestamp(rawValue: 1)])
        #expect(!findings.isConsistent && findings.repeatedTimestamps.isEmpty)
    }

    @Test("a transaction that only a participant knows is found")
    func withoutHome() {
        #expect(judge([makeRow("b", at: 1, "a,b")]).halfApplied == [Timestamp(rawValue: 1)])
    }

    @Test("a timestamp that stands for two transactions is found, in the logs and in the history")
    func repeated() {
        #expect(judge([makeRow("a", at: 1, "a"), makeRow("b", at: 1, "b")]).repeatedTimestamps.count == 1)
        let twice = [makeEntry(0, 1, at: 1), makeEntry(0, 2, at: 1)]
        let findings = judge([makeRow("a", at: 1, "a")], twice)
        #expect(findings.repeatedTimestamps == [Timestamp(rawValue: 1)] && !findings.isConsistent)
    }

    @Test("an acknowledged transfer that no shard knows is found")
    func lost() {
        let findings = judge([makeRow("a", at: 1, "a")], [makeEntry(0, 1, at: 1), makeEntry(0, 2, at: 2)])
        #expect(findings.lost == [Timestamp(rawValue: 2)] && !findings.isConsistent)
    }

    @Test("logs and a history that agree are passed, transactions that the history does not know included")
    func consistent() {
        let rows = [
            makeRow("a", at: 1, "a,b"), makeRow("b", at: 1, "a,b"), makeRow("b", at: 2, "b"), makeRow("a", at: 3, "a"),
        ]
        #expect(judge(rows, [makeEntry(0, 1, at: 1), makeEntry(0, 2, at: 3)]).isConsistent)
        #expect(judge([]).isConsistent)
    }

    @Test("a bank whose money was changed behind our back is found out, whatever the total was")
    func wrongSum() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                _ = try await bank.transfer(1, from: 0, to: 1)
                try await shards.waitUntilSettled()
                try await shards.shards[0].psql("UPDATE bank.account SET balance = balance + 1 WHERE id = 0")
                let findings = try await BankCheck(bank).run(history: [], samples: 3, seed: 1)
                #expect(findings.wrongSums.count == 3 && !findings.isConsistent)
                try await shards.shards[0].psql("UPDATE bank.account SET balance = balance - 1 WHERE id = 0")
                #expect(try await BankCheck(bank).run(history: [], samples: 3, seed: 1).isConsistent)
            }
        }
    }

    @Test("a row taken out of a shard's commit log is found out")
    func tamperedLog() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                guard case .committed(let timestamp?) = try await bank.transfer(1, from: 0, to: 1) else { return }
                try await shards.waitUntilSettled()
                try await shards.shards[1].psql("DELETE FROM meridian.commit_log WHERE ts = \(timestamp)")
                let findings = try await BankCheck(bank).run(history: [], samples: 1, seed: 1)
                #expect(findings.halfApplied == [timestamp] && !findings.isConsistent)
            }
        }
    }
}

@Suite struct BankHistoryFileTests {
    private let files: TemporaryDirectory
    private var path: String { "\(files.path)/history" }

    init() throws {
        files = try TemporaryDirectory()
    }

    private static func entry(_ number: Int64) -> HistoryEntry {
        HistoryEntry(began: number, acknowledged: number + 1, commitTimestamp: Timestamp(rawValue: number * 1024))
    }

    @Test("what was appended is read, over several runs")
    func roundTrip() throws {
        for run: Int64 in 1...3 { try HistoryFile(appendingTo: path).append(Self.entry(run)) }
        #expect(try HistoryFile.read(path) == (1...3).map(Self.entry))
    }

    @Test("an unfinished last line is passed over by a reader and cut off by the next run")
    func unfinished() throws {
        try HistoryFile(appendingTo: path).append(Self.entry(1))
        let whole = try String(contentsOfFile: path, encoding: .utf8)
        let line = "2 3 2048"
        for length in 1...line.count {
            try (whole + line.prefix(length)).write(toFile: path, atomically: true, encoding: .utf8)
            #expect(try HistoryFile.read(path) == [Self.entry(1)])
        }
        try HistoryFile(appendingTo: path).append(Self.entry(4))
        #expect(try HistoryFile.read(path) == [Self.entry(1), Self.entry(4)])
    }

    @Test(
        "a damaged line is refused with its number",
        arguments: ["", "1 2", "1 2 3 4", "a b c", "5 4 1024", "1 2 x", "99999999999999999999 1 2"])
    func damaged(line: String) throws {
        try HistoryFile(appendingTo: path).append(Self.entry(1))
        let whole = try String(contentsOfFile: path, encoding: .utf8)
        try (whole + line + "\n3 4 5\n").write(toFile: path, atomically: true, encoding: .utf8)
        let error = try #require(throws: HistoryFile.Unusable.self) { try HistoryFile.read(path) }
        #expect(error.description.contains("line 3"))
    }

    @Test("a file that is no history of this boot is refused and left as it is", arguments: ["", "hello\n"])
    func foreign(text: String) throws {
        try text.write(toFile: path, atomically: true, encoding: .utf8)
        #expect(throws: HistoryFile.Unusable.self) { try HistoryFile.read(path) }
        if !text.isEmpty {
            #expect(throws: HistoryFile.Unusable.self) { try HistoryFile(appendingTo: path) }
            #expect(try String(contentsOfFile: path, encoding: .utf8) == text)
        }
    }

    @Test("a history of another boot is refused with what to do")
    func otherBoot() throws {
        _ = try HistoryFile(appendingTo: path)
        let header = try String(contentsOfFile: path, encoding: .utf8)
        try header.replacing("boot ", with: "boot 0").write(toFile: path, atomically: true, encoding: .utf8)
        let error = try #require(throws: HistoryFile.Unusable.self) { try HistoryFile(appendingTo: path) }
        #expect(error.description.contains("HINT:"))
    }

    @Test("a file that is not there, or can't be made, is an error with its path")
    func missing() {
        #expect { try HistoryFile.read("\(files.path)/none") } throws: { "\($0)".contains("\(files.path)/none") }
        #expect(throws: HistoryFile.Unusable.self) { try HistoryFile(appendingTo: "\(files.path)/no/such/directory") }
    }
}
