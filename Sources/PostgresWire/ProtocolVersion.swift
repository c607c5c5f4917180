/// The version of the protocol.
public struct ProtocolVersion: Hashable, Sendable {
    public var major: UInt16
    public var minor: UInt16

    public init(major: UInt16, minor: UInt16) {
        self.major = major
        self.minor = minor
    }

    /// All that PostgreSQL 15 speaks, and all that is spoken here.
    public static let newest = ProtocolVersion(major: 3, minor: 0)

    /// As a startup packet has it: the major version in the upper half.
    public init(rawValue: UInt32) {
        self.init(major: UInt16(rawValue >> 16), minor: UInt16(truncatingIfNeeded: rawValue))
    }

    public var rawValue: UInt32 { UInt32(major) << 16 | UInt32(minor) }
}

extension ProtocolVersion: CustomStringConvertible {
    public var description: String { "\(major).\(minor)" }
}
