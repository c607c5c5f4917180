import ArgumentParser
import EventLoops
import Foundation
import Logging
import Metadata
import ReplicatedMetadata
import SystemClock
import TransactionCore

/// `meridian metadata`: what the nodes of a cluster agree on.
struct MetadataGroup: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metadata",
        abstract: "Look at what the nodes of a cluster agree on, and change it.",
        discussion: """
            Asks this configuration's node first, then the others of cluster.nodes: any node does. What one command \
            has set, every later one sees.

              meridian metadata members
              meridian metadata list /nodes/
              meridian metadata set /notes/colour blue --if-absent
              meridian metadata watch /notes/
              meridian metadata lock backup -- pg_dump --file dump.sql
            """,
        subcommands: [Get.self, List.self, Set.self, Watch.self, Lock.self, Members.self])

    /// The options of each of them.
    struct Options: ParsableArguments {
        @Option(help: "The configuration file; ops/meridian.example.yaml explains it.", completion: .file())
        var config: String?

        @Flag(help: "Write JSON, for programs.")
        var json = false

        @Option(help: "How long to wait for the nodes.")
        var timeout = DurationArgument(.seconds(10))

        var deadline: ContinuousClock.Instant { .now + timeout.duration }

        /// Speaks to the cluster for as long as `body` takes.
        ///
        /// - Parameter level: what of the connections' affairs is logged.
        func withMetadata<Value: Sendable>(
            logging level: Logger.Level = .critical,
            _ body: @Sendable (RemoteMetadata, SystemBoundedClock) async throws -> Value
        ) async throws -> Value {
            let configuration = try ClusterOptions.find(
                config, hint: "start one by --nodes 3, or use --config FILE or the variable MERIDIAN_CONFIG")
            guard let replication = configuration.replication else {
                throw ConfigurationError(
                    "this node is alone: nothing is replicated",
                    hint: "use a configuration with the section \"cluster\", or meridian dev --nodes 3")
            }
            let loop = try EventLoop(name: "metadata")
            defer { loop.shutdown() }
            var logger = Logger(label: "meridian.metadata")
            logger.logLevel = level
            let remote = try await replication.connect(asking: configuration.engine.node, loop: loop, logger: logger)
            let clock = SystemBoundedClock(source: configuration.clock)
            do {
                let value = try await body(remote, clock)
                await remote.close()
                return value
            } catch {
                await remote.close()
                throw error
            }
        }
    }

    /// `meridian metadata get`
    struct Get: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print a key's value.",
            discussion: """
                Fails when there is no such key.

                  meridian metadata get /nodes/1
                  meridian metadata get /nodes/1 --json     with its revisions and session
                """)

        @OptionGroup var options: Options
        @Argument(help: "Like /notes/colour.") var key: MetadataKey

        func run() async throws {
            let answer = try await options.withMetadata { remote, _ in
                try await remote.read(.get(key), deadline: options.deadline)
            }
            guard let entry = answer.entries.first else {
                throw MetadataError(
                    .refused, "there is no key \(key)", detail: "as of revision \(answer.revision)",
                    hint: "meridian metadata list shows all")
            }
            print(options.json ? try EntryLine(entry).json : EntryLine.text(entry.value))
        }
    }

    /// `meridian metadata list`
    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print keys and their values, a line each.",
            discussion: """
                The values of /users/ are password verifiers: to be kept like passwords.

                  meridian metadata list
                  meridian metadata list /nodes/ --json     a JSON object on each line
                """)

        @OptionGroup var options: Options
        @Argument(help: "What the keys begin with, up to a /.") var prefix = MetadataPrefix.all

        func run() async throws {
            try await options.withMetadata { remote, _ in
                var pages = remote.pages(of: prefix)
                while let entries = try await pages.next(deadline: options.deadline) {
                    for entry in entries {
                        print(options.json ? try EntryLine(entry).json : "\(entry.key)\t\(EntryLine.text(entry.value))")
                    }
                }
            }
        }
    }

    /// `meridian metadata set`
    struct Set: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Set or delete a key, and print the revision that it has from then on.",
            discussion: """
                Meridian's own keys are among those that can be set: /nodes/, /shards/, /users/, /cluster, /locks/, \
                /presence/. Leave them alone, unless its documentation says so.

                  meridian metadata set /notes/colour blue
                  meridian metadata set /notes/colour blue --if-absent
                  meridian metadata set /notes/colour red --if-revision 57
                  meridian metadata set /notes/colour --delete
                """)

        @OptionGroup var options: Options
        @Argument(help: "Like /notes/colour.") var key: MetadataKey
        @Argument(help: "Any text of up to a MiB.") var value: String?
        @Flag(help: "Only if there is no such key.") var ifAbsent = false
        @Option(help: "Only if the key was set last at that revision.") var ifRevision: Int64?
        @Flag(help: "Delete the key.") var delete = false

        func validate() throws {
            guard delete == (value == nil) else { throw ValidationError("Give a value, or --delete.") }
            guard !ifAbsent || (ifRevision == nil && !delete) else {
                throw ValidationError(
                    "--if-absent, --if-revision and --delete: the first goes with neither of the others.")
            }
        }

        func run() async throws {
            let transaction = MetadataTransaction(
                setting: key, to: value.map { Array($0.utf8) }, ifAbsent: ifAbsent,
                ifRevision: ifRevision.map(Revision.init(rawValue:)))
            let answer = try await options.withMetadata { remote, clock in
                try await NodeSession.with(remote, clock: clock, deadline: options.deadline) { session in
                    try await session.transaction(transaction, deadline: options.deadline)
                }
            }
            try report(answer)
        }

        private func report(_ answer: TransactionAnswer) throws {
            guard answer.held else {
                var found: MetadataEntry?
                if case .read(let read) = answer.results.first { found = read.entries.first }
                throw MetadataError(
                    .refused, "\(key) was left as it is",
                    detail: found.map { "it was set at revision \($0.modified)" } ?? "there is no such key",
                    hint: "look at it by meridian metadata get \(key) --json, and try again")
            }
            print(options.json ? "{\"revision\":\(answer.revision)}" : "\(answer.revision)")
        }
    }

    /// `meridian metadata watch`
    struct Watch: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Print every change to a key, or to all keys of a prefix, until Ctrl-C.",
            discussion: """
                Goes on with another node when the one that it asks is lost; nothing is missed, and nothing comes \
                twice. It fails when it is asked for changes that are not kept any more: the last 10,000 are.

                  meridian metadata watch /nodes/1
                  meridian metadata watch /notes/ --json
                  meridian metadata watch /notes/ --from 57     those after revision 57
                """)

        @OptionGroup var options: Options
        @Argument(help: "A key, or a prefix, which ends with a /.") var selection: MetadataSelection
        @Option(help: "The changes after that revision; by default after now.") var from: Int64?

        func run() async throws {
            try await options.withMetadata(logging: .warning) { remote, _ in
                _ = try await remote.learnAddresses(deadline: options.deadline)
                let now = try await remote.read(selection.query, deadline: options.deadline).revision
                var watch = remote.watch(selection, after: from.map(Revision.init(rawValue:)) ?? now)
                let line = "watching \(selection.text) after revision \(watch.position)\n"
                FileHandle.standardError.write(Data(line.utf8))
                while true {
                    do {
                        for change in try await watch.next() {
                            print(options.json ? try EntryLine(change).json : EntryLine.text(change))
                        }
                    } catch let error as CompactedError {
                        throw MetadataError(
                            .refused, "changes after revision \(watch.position) are not kept any more",
                            detail: "those after revision \(error.completeAfter) are",
                            hint: "read the keys by meridian metadata list, and watch from there")
                    }
                }
            }
        }
    }
}

extension MetadataTransaction {
    /// Sets a key, or deletes one that is there (nil), on the conditions; where they don't hold, it reads the key.
    init(setting key: MetadataKey, to value: [UInt8]?, ifAbsent: Bool, ifRevision: Revision?) {
        var compares: [MetadataCompare] = ifAbsent ? [.absent(key)] : []
        if let ifRevision { compares.append(.modified(key, ifRevision)) }
        if value == nil { compares.append(.exists(key)) }
        let change = value.map { MetadataOperation.put(key, $0) } ?? .delete(.key(key))
        self.init(compares: compares, then: [change], otherwise: [.read(.get(key))])
    }
}

extension MetadataKey: ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
}

extension MetadataPrefix: ExpressibleByArgument {
    public init?(argument: String) { self.init(argument) }
    public var defaultValueDescription: String { rawValue }
}

extension MetadataSelection: ExpressibleByArgument {
    public init?(argument: String) {
        if let prefix = MetadataPrefix(argument) {
            self = .prefix(prefix)
        } else if let key = MetadataKey(argument) {
            self = .key(key)
        } else {
            return nil
        }
    }

    var text: String {
        switch self {
        case .key(let key): key.rawValue
        case .prefix(let prefix): prefix.rawValue
        }
    }

    /// Finds something of what is selected, and the revision.
    var query: MetadataQuery {
        switch self {
        case .key(let key): .get(key)
        case .prefix(let prefix): .first(prefix, limit: 1)
        }
    }
}

/// A key or a change of one as a JSON object.
struct EntryLine: Encodable {
    var key: String
    var deleted: Bool?
    /// The value, if it is text; else `valueBase64`.
    var value: String?
    var valueBase64: String?
    /// Of the change, or of the last one.
    var revision: Int64
    var created: Int64?
    var version: UInt64?
    /// The key ends with it.
    var session: String?

}

extension EntryLine {
    init(_ entry: MetadataEntry) {
        let text = String(validating: entry.value, as: UTF8.self)
        self.init(
            key: entry.key.rawValue, value: text,
            valueBase64: text == nil ? Data(entry.value).base64EncodedString() : nil,
            revision: entry.modified.rawValue, created: entry.created.rawValue, version: entry.version,
            session: entry.owner?.description)
    }

    init(_ change: MetadataChange) {
        if let entry = change.entry {
            self.init(entry)
        } else {
            self.init(key: change.key.rawValue, deleted: true, revision: change.revision.rawValue)
        }
    }

    var json: String { get throws { try makeJSON(self) } }

    /// A value as it may stand in a line.
    static func text(_ value: [UInt8]) -> String {
        guard let text = String(validating: value, as: UTF8.self) else { return "(\(value.count) bytes)" }
        return text.contains { $0.isNewline } ? "\(text.debugDescription)" : text
    }

    static func text(_ change: MetadataChange) -> String {
        guard let entry = change.entry else { return "\(change.revision)\tdeleted\t\(change.key)" }
        return "\(change.revision)\tset\t\(change.key)\t\(text(entry.value))"
    }
}

/// A value on one line, its keys in order.
func makeJSON(_ value: some Encodable) throws -> String {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
    return String(decoding: try encoder.encode(value), as: UTF8.self)
}
