import ArgumentParser
import Consensus
import Foundation
import Metadata
import PeerTransport
import ReplicatedMetadata
import TransactionCore

extension MetadataGroup {
    /// `meridian metadata members`
    struct Members: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Show who takes part, and change it.",
            discussion: """
                  meridian metadata members
                  meridian metadata members add 4 10.0.0.4:7432     also done by `meridian serve` of node 4 itself
                  meridian metadata members promote 4               a learner gets its vote
                  meridian metadata members lead 4
                  meridian metadata members remove 1                for good: its number is never given again

                More than half of the voters must be there for anything to be done. So add before you remove.
                """,
            subcommands: [Show.self, Add.self, Promote.self, Remove.self, Lead.self], defaultSubcommand: Show.self)

        struct Show: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Show who takes part.")
            @OptionGroup var options: Options

            func run() async throws {
                let lines = try await options.withMetadata { remote, _ in
                    try await MemberLine.all(remote, options.deadline)
                }
                if options.json { return print(try makeJSON(lines)) }
                let rows = [MemberLine.heading] + lines.map(\.columns)
                let widths = MemberLine.heading.indices.map { column in rows.map { $0[column].count }.max() ?? 0 }
                for row in rows {
                    let cells = zip(row, widths).map { $0.padding(toLength: $1, withPad: " ", startingAt: 0) }
                    print(cells.joined(separator: "  ").trimmingSuffix { $0 == " " })
                }
            }
        }

        struct Add: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Let a node take part: it gets its vote when it has caught up, so start it, too.")
            @OptionGroup var options: Options
            @Argument(help: "Its number, 1 to 1023; one that no node has had.") var node: NodeID
            @Argument(help: "Where the other nodes find it.") var address: PeerAddress

            func run() async throws {
                try await options.withMetadata { remote, clock in
                    let record = NodeRecord(node, .joining, clientAddress: "-", peerAddress: address.description)
                    try await remote.add(record, clock: clock, deadline: options.deadline)
                }
                print("node \(node) is a voter")
            }
        }

        struct Promote: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Give a learner its vote.")
            @OptionGroup var options: Options
            @Argument(help: "Its number.") var node: NodeID

            func run() async throws {
                try await options.withMetadata { remote, _ in
                    try await remote.change(.promote(node), deadline: options.deadline)
                }
                print("node \(node) is a voter")
            }
        }

        struct Remove: AsyncParsableCommand {
            static let configuration = CommandConfiguration(
                abstract: "Let a node take part no more: it finishes what it does, and ends.")
            @OptionGroup var options: Options
            @Argument(help: "Its number.") var node: NodeID

            func run() async throws {
                try await options.withMetadata { remote, clock in
                    try await remote.remove(node, clock: clock, deadline: options.deadline)
                }
                print("node \(node) is no member any more")
            }
        }

        struct Lead: AsyncParsableCommand {
            static let configuration = CommandConfiguration(abstract: "Let a voter lead the metadata.")
            @OptionGroup var options: Options
            @Argument(help: "Its number.") var node: NodeID

            func run() async throws {
                try await options.withMetadata { remote, _ in
                    try await remote.lead(node, deadline: options.deadline)
                }
                print("node \(node) leads")
            }
        }
    }
}

/// What is shown of a member.
struct MemberLine: Encodable {
    var node: UInt16
    var role: String
    var leads: Bool
    /// Whether it answered just now.
    var answers: Bool
    /// How many slots of the log it knows to be chosen; without its answer not known.
    var slots: Int64?
    /// The members that it is connected to, itself among them.
    var connected: [UInt16]?
    var state: String?
    var peerAddress: String?
    var clientAddress: String?

    /// All members, as each of them says.
    static func all(
        _ remote: RemoteMetadata, _ deadline: ContinuousClock.Instant
    ) async throws -> [MemberLine] {
        let status = try await remote.status(deadline: deadline)
        // Without a leader there is still something to be told.
        let records = (try? await remote.learnAddresses(deadline: deadline)) ?? []
        let answers = await withTaskGroup(of: MetadataStatus?.self) { group in
            for node in status.membership.members.nodes {
                group.addTask { await remote.status(of: node, within: .seconds(1)) }
            }
            return await group.reduce(into: [NodeID: MetadataStatus]()) {
                if let status = $1 { $0[status.node] = status }
            }
        }
        return status.membership.members.nodes.map { node in
            let (own, record) = (answers[node], records.first { $0.node == node })
            return MemberLine(
                node: node.rawValue, role: status.membership.voters.contains(node) ? "voter" : "learner",
                leads: node == status.leader, answers: own != nil, slots: own?.chosenUpTo.rawValue,
                connected: own?.connected.nodes.map(\.rawValue), state: record?.state.rawValue,
                peerAddress: record?.peerAddress, clientAddress: record?.clientAddress)
        }
    }

    static let heading = ["NODE", "ROLE", "LEADS", "STATE", "SLOTS", "CONNECTED", "PEERS", "CLIENTS"]

    var columns: [String] {
        [
            "\(node)", role, leads ? "yes" : "", state ?? "-", slots.map { "\($0)" } ?? "no answer",
            connected.map { $0.map(String.init).joined(separator: ",") } ?? "-", peerAddress ?? "-",
            clientAddress ?? "-",
        ]
    }
}

extension NodeID: ExpressibleByArgument {
    public init?(argument: String) {
        guard let number = UInt16(argument), number > 0 else { return nil }
        self.init(rawValue: number)
    }
}

extension PeerAddress: ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
}

extension String {
    fileprivate func trimmingSuffix(while isDropped: (Character) -> Bool) -> String {
        String(reversed().drop(while: isDropped).reversed())
    }
}
