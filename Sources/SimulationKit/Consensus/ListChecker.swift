import TransactionCore

/// Judges what clients saw of the replicated list against what it holds in the end: linearizability (Herlihy & Wing
/// 1990) of appends and reads of one list, whose final order says where each of them took effect.
struct ListChecker {
    let final: [UInt64]

    func check(_ operations: [ListOperation]) -> [Violation] {
        let places = Dictionary(uniqueKeysWithValues: zip(final, 1...))
        var violations: [Violation] = []
        /// The length of the list right after an append, or at a read.
        var lengths: [(length: Int, isRead: Bool, operation: ListOperation)] = []
        for operation in operations {
            switch operation.kind {
            case .append(let command):
                guard let place = places[command] else {
                    violations.append(violation("command \(command) was acknowledged and is lost"))
                    continue
                }
                lengths.append((place, false, operation))
            case .read(let list):
                guard list.elementsEqual(final.prefix(list.count)) else {
                    violations.append(violation("client \(operation.client) read what is no beginning of the list"))
                    continue
                }
                lengths.append((list.count, true, operation))
            }
        }
        return violations + checkRealTime(lengths)
    }

    /// What began after something had been acknowledged saw it, or came after it.
    private func checkRealTime(
        _ lengths: [(length: Int, isRead: Bool, operation: ListOperation)]
    ) -> [Violation] {
        let byEnd = lengths.sorted { $0.operation.ended < $1.operation.ended }
        var acknowledged = 0
        var ended = 0
        for next in lengths.sorted(by: { $0.operation.begun < $1.operation.begun }) {
            while ended < byEnd.count, byEnd[ended].operation.ended < next.operation.begun {
                acknowledged = max(acknowledged, byEnd[ended].length)
                ended += 1
            }
            guard next.isRead ? next.length < acknowledged : next.length <= acknowledged else { continue }
            let what = next.isRead ? "read \(next.length) commands" : "appended as number \(next.length)"
            return [
                violation(
                    "client \(next.operation.client) \(what) after \(acknowledged) had been acknowledged or read")
            ]
        }
        return []
    }

    private func violation(_ message: String) -> Violation {
        Violation(checker: "ListChecker", message: message, witnesses: [])
    }
}
