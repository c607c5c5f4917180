import ArgumentParser

struct CheckConfig: AsyncParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Check the shards.")
    @OptionGroup var cluster: ClusterOptions
    func run() async throws {
        print(try cluster.load())
    }
}
