// swift-tools-version: 6.2
import PackageDescription

// Fuzzing of what reads files from elsewhere, with libFuzzer, which Swift's toolchains for Linux bring along. A package of
// its own, so that the main one needs neither the sanitizer nor these programs. `Fuzz/run` builds and starts one:
//
//     Fuzz/run FuzzPyTorch 120          seconds; findings lie in Fuzz/.build/findings
//
// Any outcome but a result or a typed error is a finding: a crash, a hang, more memory than -rss_limit_mb.

let settings: [SwiftSetting] = [
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
  // libFuzzer has the main function.
  .unsafeFlags(["-parse-as-library"]),
]

func fuzzer(_ name: String, _ products: String...) -> Target {
  .executableTarget(
    name: name, dependencies: products.map { .product(name: $0, package: "swift-qformer") }, swiftSettings: settings)
}

let package = Package(
  name: "swift-qformer-fuzz",
  platforms: [.macOS(.v15)],
  dependencies: [.package(name: "swift-qformer", path: "..")],
  targets: [
    fuzzer("FuzzSafetensors", "QFormer"),
    fuzzer("FuzzPyTorch", "QFormer"),
    fuzzer("FuzzShardIndex", "QFormer"),
    fuzzer("FuzzTokenizer", "Tokenizers"),
    fuzzer("FuzzSentencePiece", "Tokenizers"),
    fuzzer("FuzzVocabulary", "Tokenizers"),
    fuzzer("FuzzConfiguration", "Pipelines", "QFormer"),
  ],
  swiftLanguageModes: [.v6])
