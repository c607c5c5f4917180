import StatementRouting
import Testing

@Suite struct PlanCacheTests {
    private func key(_ text: String, version: UInt64 = 1, path: [String] = ["public"]) -> PlanCache<StatementPlan>.Key {
        PlanCache<StatementPlan>.Key(text: text, catalogVersion: version, searchPath: path)
    }

    @Test("the plan used longest ago makes room")
    func leastRecentlyUsed() throws {
        var cache = PlanCache<StatementPlan>(capacity: 2)
        let plan = try makePlan("SELECT 1")
        cache.insert(plan, for: key("a"))
        cache.insert(plan, for: key("b"))
        #expect(cache.plan(for: key("a")) != nil)
        cache.insert(plan, for: key("c"))
        #expect(cache.plan(for: key("b")) == nil)
        #expect(cache.plan(for: key("a")) != nil)
        #expect(cache.plan(for: key("c")) != nil)
        cache.insert(plan, for: key("a"))
        #expect(cache.count == 2)
    }

    @Test("a plan of another catalog or search path is another plan")
    func keys() throws {
        var cache = PlanCache<StatementPlan>(capacity: 4)
        cache.insert(try makePlan("SELECT 1"), for: key("a"))
        #expect(cache.plan(for: key("a", version: 2)) == nil)
        #expect(cache.plan(for: key("a", path: ["app"])) == nil)
    }

    @Test("a cache behaves as a list of what was used last, whatever is asked of it")
    func model() throws {
        var cache = PlanCache<StatementPlan>(capacity: 5)
        var model: [String] = []
        let plan = try makePlan("SELECT 1")
        var state: UInt64 = 42
        for _ in 0..<2000 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            let text = "t\(state >> 60)"
            if cache.plan(for: key(text)) != nil {
                #expect(model.contains(text))
            } else {
                #expect(!model.contains(text))
                cache.insert(plan, for: key(text))
            }
            model.removeAll { $0 == text }
            model.insert(text, at: 0)
            model = Array(model.prefix(5))
        }
    }
}
