import CLinux
import Foundation
import Gateway
import TestSupport
import Testing

@Suite struct IdleTests {
    @Test("a thousand idle clients take little memory", .timeLimit(.minutes(2)))
    func thousand() async throws {
        try await TestGateway.with { test in
            // What the first ones have made is not what one more costs.
            var clients: [RawClient] = []
            func connect(_ count: Int) async throws {
                for _ in 0..<count {
                    let client = try RawClient(port: test.port)
                    try await client.logIn()
                    await client.send(.query("hello"))
                    #expect(rows(try await client.messagesToReady()) == ["hello"])
                    clients.append(client)
                }
            }
            try await connect(100)
            let before = allocatedBytes()
            try await connect(900)
            let each = (allocatedBytes() - before) / 900
            print("IdleTests.thousand: \(each) bytes for each idle client, those of the test's own end included")
            #expect(each < 20_000)
        }
    }
}

/// How much memory is allocated and not freed.
private func allocatedBytes() -> Int {
    let state = mallinfo2()
    return Int(state.uordblks + state.hblkhd)
}
