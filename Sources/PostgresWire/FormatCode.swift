/// How a value is written.
public enum FormatCode: Int16, Hashable, Sendable, CaseIterable {
    case text = 0
    case binary = 1
}
