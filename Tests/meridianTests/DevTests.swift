import Foundation
import TestSupport
import Testing

@Suite("meridian dev", .serialized) struct DevTests {
    private let runtime: TemporaryDirectory
    private let temporary: TemporaryDirectory

    /// A runtime directory and a directory for temporary files of the test's own, so that it sees all that is left.
    init() throws {
        runtime = try TemporaryDirectory()
        temporary = try TemporaryDirectory()
    }

    private func run(_ arguments: String...) throws -> RunningCommand { try run(arguments) }

    private func run(_ arguments: [String]) throws -> RunningCommand {
        try RunningCommand(
            arguments,
            environment: ["XDG_RUNTIME_DIR": runtime.path, "TMPDIR": temporary.path, "MERIDIAN_CONFIG": ""]
        )
    }

    @Test(
        "it prints its shards, then where its nodes are; Ctrl-C leaves neither a server nor a file",
        arguments: [SIGINT, SIGTERM])
    func interrupted(by signal: Int32) async throws {
        let dev = try run("dev", "--shards", "2", "--nodes", "3")
        #expect(await eventually(within: .seconds(120)) { self.ports(of: dev).count == 5 }, "\(dev.output)")
        let ports = ports(of: dev)
        #expect(ports.allSatisfy(isOpen))
        dev.signal(signal)
        #expect(await dev.exitStatus() == 0)
        #expect(!ports.contains(where: isOpen))
        #expect(try leftovers() == [])
    }

    @Test("Ctrl-C before it is ready leaves neither a server nor a file", arguments: [50, 200, 400, 600, 800, 1200])
    func interruptedEarly(milliseconds: Int) async throws {
        let dev = try run("dev", "--shards", "1")
        try await Task.sleep(for: .milliseconds(milliseconds))
        dev.signal(SIGINT)
        #expect(await dev.exitStatus() != -SIGKILL)
        #expect(try leftovers() == [])
    }

    @Test("its servers die with it when it is killed, also one that is paused, and the next start ignores what it left")
    func killed() async throws {
        let dev = try run("dev", "--shards", "2", "--nodes", "0")
        try await dev.waits(for: "ready: no node, 2 shards")
        let servers = try children(of: dev.processID)
        #expect(servers.count == 2)
        kill(servers[0], SIGSTOP)
        while fields(of: servers[0]).first != "T" { try await Task.sleep(for: .milliseconds(5)) }
        dev.signal(SIGKILL)
        #expect(await dev.exitStatus() == -SIGKILL)
        let deadline = ContinuousClock.now + .seconds(20)
        while servers.contains(where: isAlive), ContinuousClock.now < deadline {
            try await Task.sleep(for: .milliseconds(50))
        }
        #expect(!servers.contains(where: isAlive))

        let check = try run("check-config")
        #expect(await check.exitStatus() == 1)
        #expect(check.errors.contains("no \"meridian dev\" of this user is running"))
    }

    @Test("clients find the bank by themselves, through every node, and the check holds")
    func bank() async throws {
        let dev = try run("dev", "--nodes", "3")
        let urls = { dev.output.split(separator: "\n").filter { $0.hasPrefix("ready: ") }.map { $0.dropFirst(7) } }
        try #require(await eventually(within: .seconds(120)) { urls().count == 3 }, "\(dev.output)\(dev.errors)")
        let files = ["--history", "\(temporary.path)/history"]
        for arguments in [
            ["init", "--accounts", "500"],
            ["run", "--seconds", "1", "--cross-shard", "0.5", "--json", "\(temporary.path)/json"] + files,
            ["run", "--seconds", "1", "--url", "\(urls()[1])", "--json", "\(temporary.path)/json"] + files,
            ["check", "--total", "500000", "--samples", "10"] + files,
        ] {
            let command = try run(["bank"] + arguments)
            #expect(await command.exitStatus() == 0, "\(arguments): \(command.output)\(command.errors)")
        }
        let again = try run("bank", "init")
        #expect(await again.exitStatus() == 1)
        #expect(again.errors.contains("there is a bank already") && again.errors.contains("--replace"))
        dev.signal(SIGINT)
        #expect(await dev.exitStatus() == 0)
    }

    @Test("the bank measures a plain PostgreSQL, too")
    func plain() async throws {
        let dev = try run("dev", "--shards", "1", "--nodes", "0")
        try await dev.waits(for: "ready:")
        let url = "postgresql://meridian@127.0.0.1:\(try #require(ports(of: dev).first))/meridian"
        let files = ["--history", "\(temporary.path)/history"]
        for arguments in [
            ["init", "--accounts", "50"],
            ["run", "--seconds", "0.5", "--read-fraction", "0.2", "--json", "\(temporary.path)/json"] + files,
            ["check", "--total", "50000"] + files,
        ] {
            let command = try run(["bank"] + arguments + ["--url", url])
            #expect(await command.exitStatus() == 0, "\(arguments): \(command.output)\(command.errors)")
        }
        dev.signal(SIGINT)
        #expect(await dev.exitStatus() == 0)
    }

    @Test("two at once share nothing, and a command that could mean either is refused")
    func two() async throws {
        let first = try run("dev", "--shards", "1")
        let second = try run("dev", "--shards", "1")
        try await first.waits(for: "ready:")
        try await second.waits(for: "ready:")
        #expect(ports(of: first) != ports(of: second))
        let ambiguous = try run("check-config")
        #expect(await ambiguous.exitStatus() == 1)
        #expect(ambiguous.errors.contains("2 \"meridian dev\" are running"))
        first.signal(SIGINT)
        #expect(await first.exitStatus() == 0)
        #expect(ports(of: second).allSatisfy(isOpen))
        second.signal(SIGINT)
        #expect(await second.exitStatus() == 0)
        #expect(try leftovers() == [])
    }

    @Test("a shard's server that dies is started again on its port, and its log is shown")
    func shardDies() async throws {
        let dev = try run("dev", "--shards", "1")
        try await dev.waits(for: "ready:")
        kill(try #require(try children(of: dev.processID).first), SIGKILL)
        try await dev.waits(for: "shard1 is back")
        #expect(dev.errors.contains("shard1 ended (signal 9) and is started again"))
        #expect(dev.errors.contains("database system is ready to accept connections"))
        #expect(ports(of: dev).allSatisfy(isOpen))
        dev.signal(SIGINT)
        #expect(await dev.exitStatus() == 0)
    }

    @Test("kept data are opened again on the same ports, and a second opener is refused")
    func kept() async throws {
        let data = "\(temporary.path)/kept"
        let first = try run("dev", "--shards", "1", "--data", data, "--nodes", "0")
        try await first.waits(for: "ready:")
        let refused = try run("dev", "--data", data)
        #expect(await refused.exitStatus() == 1)
        #expect(refused.errors.hasPrefix("ERROR:  directory \(data) is in use by another process\nHINT:  "))
        let ports = ports(of: first)
        first.signal(SIGKILL)
        await first.exitStatus()
        let second = try run("dev", "--data", data, "--nodes", "0")
        try await second.waits(for: "ready:")
        #expect(self.ports(of: second) == ports)
        second.signal(SIGINT)
        #expect(await second.exitStatus() == 0)
    }

    @Test(
        "bad input is refused before anything is made",
        arguments: [
            ["dev", "--shards", "0"], ["dev", "--nodes", "17"], ["dev", "--nodes", "2", "--port", "65535"],
            ["dev", "--uncertainty", "1"],
            ["dev", "--port", "70000"],
            ["dev", "--uncertainty", "11s"], ["dev", "--shards", "2", "--shard-port", "65535"],
        ]
    )
    func badInput(arguments: [String]) async throws {
        let dev = try RunningCommand(
            arguments, environment: ["XDG_RUNTIME_DIR": runtime.path, "TMPDIR": temporary.path])
        #expect(await dev.exitStatus() > 0)
        #expect(dev.errors.hasPrefix("ERROR:  "))
        #expect(try leftovers() == [])
    }
}

extension DevTests {
    /// The ports in the lines `shard: NAME host=127.0.0.1 port=PORT …` and `ready: postgresql://USER@HOST:PORT/NAME`.
    private func ports(of dev: RunningCommand) -> [UInt16] {
        dev.output.split(separator: "\n").compactMap { line in
            line.firstMatch(of: /^shard: .* port=(\d+)|^ready: .*:(\d+)\//).flatMap { UInt16($0.1 ?? $0.2 ?? "") }
        }
    }

    /// What is left in the two directories, but for the commands' own outputs.
    private func leftovers() throws -> [String] {
        let configurations = (try? FileManager.default.contentsOfDirectory(atPath: "\(runtime.path)/meridian")) ?? []
        return try configurations + FileManager.default.contentsOfDirectory(atPath: temporary.path)
    }

    private func isOpen(port: UInt16) -> Bool {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
    }

    private func children(of parent: Int32) throws -> [Int32] {
        try FileManager.default.contentsOfDirectory(atPath: "/proc").compactMap { Int32($0) }.filter {
            fields(of: $0).dropFirst().first == "\(parent)"
        }
    }

    /// Whether a process is there and no zombie, which one stays whose new parent does not collect it.
    private func isAlive(_ processID: Int32) -> Bool {
        let state = fields(of: processID).first
        return state != nil && state != "Z"
    }

    /// The fields of /proc/PID/stat after the command: state, parent and so on.
    private func fields(of processID: Int32) -> [Substring] {
        let stat = (try? String(contentsOfFile: "/proc/\(processID)/stat", encoding: .isoLatin1)) ?? ""
        return stat.split(separator: ") ").last?.split(separator: " ") ?? []
    }
}
