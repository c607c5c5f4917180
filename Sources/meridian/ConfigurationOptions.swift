import ArgumentParser
import Foundation
import TransactionEngine

/// The options of every command that needs shards.
struct ClusterOptions: ParsableArguments {
    @Option(help: "The configuration file; ops/meridian.example.yaml explains it.", completion: .file())
    var config: String?

    @Option(
        name: .customLong("shard"),
        help: ArgumentHelp("A shard, instead of a configuration file; repeat it.", valueName: "'name conninfo'")
    )
    var shards: [String] = []

    /// The command was told which cluster.
    var isGiven: Bool { config != nil || !shards.isEmpty }

    func validate() throws {
        if config != nil, !shards.isEmpty {
            throw ValidationError("--config and --shard exclude each other.")
        }
    }

    /// The configuration: by the options, else by the file that MERIDIAN_CONFIG names, else by the one that a running
    /// `meridian dev` of this user left.
    ///
    /// Throws ``ConfigurationError`` when there is none, or when it is refused.
    func load() throws -> ClusterConfiguration {
        if !shards.isEmpty {
            let shards = try shards.map(ShardConfiguration.init(argument:))
            try ShardConfiguration.check(shards)
            return ClusterConfiguration(shards: shards)
        }
        return try Self.find(
            config, hint: "start one, or use --config FILE, --shard 'NAME CONNINFO' or the variable MERIDIAN_CONFIG")
    }

    /// The configuration in `file`, or where ``load()`` looks else.
    static func find(_ file: String?, hint: String) throws -> ClusterConfiguration {
        let named = ProcessInfo.processInfo.environment["MERIDIAN_CONFIG"].flatMap { $0.isEmpty ? nil : $0 }
        if let path = file ?? named { return try ClusterConfiguration(contentsOf: path) }
        let running = try DevConfigurationFile.running()
        guard let path = running.first else {
            throw ConfigurationError(
                "no configuration is given, and no \"meridian dev\" of this user is running", hint: hint)
        }
        guard running.count == 1 else {
            throw ConfigurationError(
                "\(running.count) \"meridian dev\" are running", detail: running.joined(separator: ", "),
                hint: "choose one of these files by --config"
            )
        }
        return try ClusterConfiguration(contentsOf: path)
    }
}
