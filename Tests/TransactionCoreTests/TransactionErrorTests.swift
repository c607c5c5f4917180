import Testing
import TransactionCore

@Suite struct TransactionErrorTests {
    @Test("an error prints its code and message, then each fact it has on a line of its own")
    func description() {
        var error = TransactionError(.serializationFailure, "could not serialize access")
        #expect("\(error)" == "40001: could not serialize access")
        error.detail = "the row was changed"
        error.hint = "run the transaction again"
        error.shard = ShardID("s1")
        #expect(
            "\(error)" == """
                40001: could not serialize access
                DETAIL:  the row was changed
                HINT:  run the transaction again
                SHARD:  s1
                """)
    }

    @Test("only a conflict of which nothing was committed may be tried again")
    func retryable() throws {
        let id = TransactionID(
            home: try #require(ShardID("s1")), epoch: Epoch(rawValue: 1), commitTimestamp: Timestamp(rawValue: 1_024))
        #expect(TransactionError(.serializationFailure, "").isRetryable)
        #expect(TransactionError(.deadlockDetected, "").isRetryable)
        #expect(!TransactionError(.uniqueViolation, "").isRetryable)
        #expect(!TransactionError(.serializationFailure, "", outcome: .indeterminate(id)).isRetryable)
        #expect(!TransactionError(.deadlockDetected, "", outcome: .committed(.zero)).isRetryable)
    }

    @Test("an error is of a transaction that aborted unless it says otherwise")
    func outcome() {
        #expect(TransactionError(.internalError, "").outcome == .aborted)
    }
}

@Suite struct SQLStateTests {
    @Test("the class is the code's first two characters")
    func errorClass() {
        #expect(SQLState.clockNotTrusted.errorClass == "58")
        #expect(SQLState(rawValue: "").errorClass == "")
    }
}
