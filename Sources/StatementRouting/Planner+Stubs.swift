extension Planner {
    func locks(_ plan: StatementPlan) -> LockPlan { LockPlan() }
    func asOfSQL() -> String? { nil }
}
