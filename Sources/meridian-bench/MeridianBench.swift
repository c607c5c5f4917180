import ArgumentParser

/// The benchmarks; `ops/bench` builds and runs this.
@main
struct MeridianBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ops/bench",
        abstract: "Measures Meridian against what it is built on, side by side in one run.",
        discussion: """
            Every figure is good against the others of the same run only: look at the ratios.

            EXAMPLES
              ops/bench transfers            transfers/s against bare libpq and textbook two-phase commit
              ops/bench transfers --quick    the same in under a minute
              ops/bench sums --json sums.json
              ops/bench gateway --parts select --clients 8
              ops/bench nodes --quick        what other nodes cost one
              ops/bench metadata --quick     writes/s of the replicated metadata against etcd and ZooKeeper
            """,
        subcommands: [
            Transfers.self, Sums.self, GatewayBench.self, NodesBench.self, MetadataBench.self, Memory.self,
            MetadataMember.self, MetadataLoad.self,
        ])
}

/// What every benchmark takes.
struct BenchOptions: ParsableArguments {
    @Flag(help: "Take under a minute; the figures are noisier.")
    var quick = false

    @Option(help: ArgumentHelp("Write every figure and the ratios to this file.", valueName: "file"))
    var json: String?
}
