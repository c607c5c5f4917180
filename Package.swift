// swift-tools-version: 6.1
import PackageDescription

/// Targets are listed bottom-up: a target depends only on targets above it in this file.
/// Pure targets import neither libpq nor a clock; `RepositoryTests` holds every target to that.
let package = Package(
    name: "meridian",
    products: [
        .executable(name: "meridian", targets: ["meridian"]),
        .library(name: "TransactionEngine", targets: ["TransactionEngine"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-crypto", from: "4.5.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-ssl", from: "2.37.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: [
        // System libraries: a module map and a shim header, nothing else.
        .systemLibrary(name: "CLibPQ", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),
        .systemLibrary(name: "CLinux"),
        .systemLibrary(name: "CPgQuery", providers: [.apt(["libpg-query-dev", "libprotobuf-c-dev"])]),

        // Pure: values and state machines. No I/O, no clock, no randomness, no tasks.
        .target(name: "TransactionCore"),
        .target(name: "BoundedTime", dependencies: ["TransactionCore"]),
        .target(name: "TwoPhaseCommit", dependencies: ["TransactionCore", "BoundedTime"]),
        .target(
            name: "PostgresWire",
            dependencies: ["TransactionCore", .product(name: "NIOCore", package: "swift-nio")]
        ),
        .target(
            name: "ClientAuthentication",
            dependencies: ["TransactionCore", .product(name: "Crypto", package: "swift-crypto")]
        ),
        .target(
            name: "Consensus",
            dependencies: [
                "TransactionCore", "BoundedTime", .product(name: "DequeModule", package: "swift-collections"),
            ]
        ),
        .target(
            name: "Metadata",
            dependencies: ["TransactionCore", .product(name: "DequeModule", package: "swift-collections")]
        ),
        .target(name: "Placement", dependencies: ["TransactionCore"]),
        .target(name: "StatementRouting", dependencies: ["CPgQuery", "Placement", "TransactionCore"]),

        // Simulation: a deterministic twin of the shells below, over the real pure targets above.
        .target(
            name: "SimulationKit", dependencies: ["TransactionCore", "BoundedTime", "TwoPhaseCommit", "Consensus"]),

        // The thread that shells wait on: one for libpq's sockets and clients' alike.
        .target(
            name: "EventLoops",
            dependencies: [
                "CLinux",
                .product(name: "DequeModule", package: "swift-collections"),
                .product(name: "HeapModule", package: "swift-collections"),
                .product(name: "NIOCore", package: "swift-nio"),
            ]
        ),

        // Shells: one outside thing each.
        .target(name: "SystemClock", dependencies: ["BoundedTime", "CLinux"]),
        .target(
            name: "ShardBackend",
            dependencies: [
                "CLibPQ", "EventLoops", "TransactionCore",
                .product(name: "DequeModule", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Metrics", package: "swift-metrics"),
            ]
        ),
        .target(
            name: "MetadataStorage",
            dependencies: [
                "Consensus", "EventLoops", "TransactionCore", .product(name: "Logging", package: "swift-log"),
            ]
        ),
        .target(name: "LocalCluster", dependencies: ["CLinux", "TransactionCore"]),
        .target(
            name: "PeerTransport",
            dependencies: [
                "EventLoops", "TransactionCore",
                .product(name: "DequeModule", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Metrics", package: "swift-metrics"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
            ]
        ),
        .target(
            name: "Gateway",
            dependencies: [
                "ClientAuthentication", "EventLoops", "PostgresWire", "TransactionCore",
                .product(name: "DequeModule", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Metrics", package: "swift-metrics"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOSSL", package: "swift-nio-ssl"),
            ]
        ),

        .target(
            name: "AdminInterface",
            dependencies: [
                "EventLoops", "TransactionCore",
                .product(name: "Metrics", package: "swift-metrics"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
            ]
        ),

        // Assemblies: what a node is made of, over the shells.
        .target(
            name: "ReplicatedMetadata",
            dependencies: [
                "BoundedTime", "Consensus", "EventLoops", "Metadata", "MetadataStorage", "PeerTransport",
                "TransactionCore", .product(name: "Logging", package: "swift-log"),
            ]
        ),
        .target(
            name: "ShardSchema", dependencies: ["ShardBackend", "TransactionCore"],
            resources: [.embedInCode("Migrations")]
        ),
        .target(
            name: "TransactionEngine",
            dependencies: [
                "TransactionCore", "BoundedTime", "TwoPhaseCommit", "EventLoops", "SystemClock", "ShardBackend",
                "ShardSchema",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Metrics", package: "swift-metrics"),
            ]
        ),
        .target(
            name: "SQLSessions",
            dependencies: [
                "ClientAuthentication", "EventLoops", "Gateway", "Placement", "PostgresWire", "ShardBackend",
                "StatementRouting",
                "TransactionCore", "TransactionEngine", "TwoPhaseCommit",
                .product(name: "DequeModule", package: "swift-collections"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
            ]
        ),
        .target(
            name: "BankWorkload",
            dependencies: [
                "EventLoops", "Placement", "ShardBackend", "ShardSchema", "TransactionCore", "TransactionEngine",
                "TwoPhaseCommit",
                .product(name: "Histogram", package: "hdrhistogram-swift"),
                .product(name: "Logging", package: "swift-log"),
            ]
        ),

        // Executables: parse, assemble, run.
        .executableTarget(
            name: "meridian",
            dependencies: [
                "AdminInterface", "BankWorkload", "ClientAuthentication", "Consensus", "EventLoops", "Gateway",
                "LocalCluster", "Metadata", "PeerTransport", "ReplicatedMetadata", "SQLSessions", "ShardBackend",
                "ShardSchema", "SimulationKit", "SystemClock", "TransactionCore", "TransactionEngine",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Logging", package: "swift-log"),
                .product(name: "Metrics", package: "swift-metrics"),
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
                .product(name: "Yams", package: "Yams"),
            ]
        ),
        .executableTarget(
            name: "meridian-bench",
            dependencies: [
                "BankWorkload", "BoundedTime", "CLibPQ", "Consensus", "EventLoops", "LocalCluster", "Metadata",
                "PeerTransport", "ReplicatedMetadata", "ShardBackend", "ShardSchema", "SystemClock", "TransactionCore",
                "TransactionEngine",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
                .product(name: "Histogram", package: "hdrhistogram-swift"),
                .product(name: "Logging", package: "swift-log"),
            ]
        ),

        // Tests.
        .target(
            name: "TestSupport",
            dependencies: [
                "EventLoops", "LocalCluster", "PostgresWire", "ShardBackend", "ShardSchema",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
            ],
            path: "Tests/TestSupport"
        ),
        .testTarget(
            name: "ReplicatedMetadataTests",
            dependencies: [
                "BoundedTime", "Consensus", "EventLoops", "LocalCluster", "Metadata", "PeerTransport",
                "ReplicatedMetadata", "SystemClock", "TestSupport", "TransactionCore",
                .product(name: "Logging", package: "swift-log"),
            ]
        ),
        .testTarget(name: "TransactionCoreTests", dependencies: ["TransactionCore"]),
        .testTarget(
            name: "BoundedTimeTests", dependencies: ["BoundedTime", "CLinux", "SystemClock", "TransactionCore"]
        ),
        .testTarget(name: "TwoPhaseCommitTests", dependencies: ["TwoPhaseCommit"]),
        .testTarget(name: "ConsensusTests", dependencies: ["Consensus", "SimulationKit", "TransactionCore"]),
        .testTarget(
            name: "PostgresWireTests",
            dependencies: ["PostgresWire", "TransactionCore", .product(name: "NIOCore", package: "swift-nio")]
        ),
        .testTarget(
            name: "ClientAuthenticationTests",
            dependencies: [
                "ClientAuthentication", "TransactionCore", .product(name: "Crypto", package: "swift-crypto"),
            ]
        ),
        .testTarget(
            name: "MetadataTests", dependencies: ["Metadata", "SimulationKit", "TransactionCore"]),
        .testTarget(name: "PlacementTests", dependencies: ["Placement", "TransactionCore"]),
        .testTarget(name: "StatementRoutingTests", dependencies: ["Placement", "StatementRouting", "TransactionCore"]),
        .testTarget(name: "SimulationTests", dependencies: ["SimulationKit"]),
        .testTarget(
            name: "EventLoopTests",
            dependencies: ["CLinux", "EventLoops", "TestSupport", .product(name: "NIOCore", package: "swift-nio")]
        ),
        .testTarget(
            name: "ShardBackendTests",
            dependencies: ["EventLoops", "LocalCluster", "ShardBackend", "TestSupport", "TransactionCore"]
        ),
        .testTarget(
            name: "MetadataStorageTests",
            dependencies: [
                "Consensus", "EventLoops", "MetadataStorage", "TestSupport", "TransactionCore",
                .product(name: "Logging", package: "swift-log"),
            ]
        ),
        .testTarget(
            name: "GatewayTests",
            dependencies: [
                "CLinux", "ClientAuthentication", "EventLoops", "Gateway", "PostgresWire", "TestSupport",
                "TransactionCore",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
            ]
        ),
        .testTarget(
            name: "PeerTransportTests",
            dependencies: [
                "EventLoops", "PeerTransport", "TestSupport", "TransactionCore",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
            ]
        ),
        .testTarget(
            name: "PostgresIntegrationTests",
            dependencies: [
                "BankWorkload", "BoundedTime", "ClientAuthentication", "EventLoops", "Gateway", "LocalCluster",
                "Placement", "PostgresWire", "SQLSessions", "ShardBackend", "ShardSchema", "SimulationKit",
                "StatementRouting", "SystemClock", "TestSupport", "TransactionCore", "TransactionEngine",
                "TwoPhaseCommit",
                .product(name: "Logging", package: "swift-log"),
                .product(name: "NIOCore", package: "swift-nio"),
            ]
        ),
        .testTarget(
            name: "meridianTests",
            dependencies: [
                "LocalCluster", "PeerTransport", "SystemClock", "TestSupport", "TransactionCore", "TransactionEngine",
                "meridian",
            ]
        ),
        .testTarget(name: "RepositoryTests"),
    ],
    swiftLanguageModes: [.v6]
)
