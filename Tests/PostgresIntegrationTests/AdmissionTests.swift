import Testing

@testable import TransactionEngine

@Suite struct AdmissionTests {
    @Test("no more transactions are open than there are connections for, and each end makes room for one")
    func open() {
        var admission = Admission(openMax: 2, busyMax: 10)
        admission.opened()
        #expect(admission.hasRoom)
        admission.opened()
        #expect(!admission.hasRoom)
        admission.closed()
        #expect(admission.hasRoom)
    }

    @Test("nothing begins while as many requests as the shards do well with are under way")
    func busy() {
        var admission = Admission(openMax: 10, busyMax: 2)
        let first = admission.requestBegan()
        #expect(admission.hasRoom)
        let second = admission.requestBegan()
        #expect(!admission.hasRoom)
        admission.requestEnded(first)
        #expect(admission.hasRoom)
        admission.requestEnded(second)
    }

    @Test("a request that goes on for two ticks waits for something, and keeps nobody from beginning")
    func waiting() {
        var admission = Admission(openMax: 10, busyMax: 2)
        let blocked = [admission.requestBegan(), admission.requestBegan()]
        admission.tick()
        #expect(!admission.hasRoom)
        admission.tick()
        #expect(admission.hasRoom)
        // Their ends are not taken for those of requests that count.
        let fresh = [admission.requestBegan(), admission.requestBegan()]
        for request in blocked { admission.requestEnded(request) }
        #expect(!admission.hasRoom)
        admission.tick()
        #expect(!admission.hasRoom)
        admission.requestEnded(fresh[0])
        #expect(admission.hasRoom)
    }
}
