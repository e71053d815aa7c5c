// swift-tools-version: 6.2
import PackageDescription

/// Where LibTorch lies: `$LIBTORCH`, or the folder that `scripts/setup` fills.
let libtorch = Context.environment["LIBTORCH"] ?? Context.packageDirectory + "/.libtorch"

let settings: [SwiftSetting] = [
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

// libvips' own pkg-config entry names every library it is built of, with flags SwiftPM warns about. On Linux its header
// lies in the standard place, so that only GLib's is searched for.
// FFmpeg's headers lie in the standard place too.
#if os(macOS)
  let vipsPackage = "vips"
  let ffmpegPackage: String? = "libavformat"
#else
  let vipsPackage = "gobject-2.0"
  let ffmpegPackage: String? = nil
#endif

func library(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: settings)
}

func tests(_ name: String, _ dependencies: [Target.Dependency] = []) -> Target {
  .testTarget(
    name: name + "Tests", dependencies: [.target(name: name), "TestSupport"] + dependencies, swiftSettings: settings)
}

let package = Package(
  name: "swift-qformer",
  platforms: [.macOS(.v15)],
  products: [
    .library(name: "QFormer", targets: ["Torch", "TorchNN", "Checkpoints", "QFormer"]),
    .library(name: "Tokenizers", targets: ["Tokenizers"]),
    .library(name: "Pipelines", targets: ["Backbones", "Media", "Tokenizers", "Pipelines"]),
    .executable(name: "qformer", targets: ["CommandLineTool"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
    .package(url: "https://github.com/swiftlang/swift-docc-plugin", from: "1.5.0"),
  ],
  targets: [
    // C interfaces: the only places that see LibTorch, libvips and FFmpeg.
    .target(
      name: "CTorch",
      cxxSettings: [
        .unsafeFlags(["-isystem", "\(libtorch)/include", "-isystem", "\(libtorch)/include/torch/csrc/api/include"])
      ],
      linkerSettings: [
        .unsafeFlags(["-L\(libtorch)/lib", "-Xlinker", "-rpath", "-Xlinker", "\(libtorch)/lib"]),
        .linkedLibrary("torch"), .linkedLibrary("torch_cpu"), .linkedLibrary("c10"),
      ]),
    .systemLibrary(name: "CVips", pkgConfig: vipsPackage, providers: [.apt(["libvips-dev"]), .brew(["vips"])]),
    .systemLibrary(
      name: "CFFmpeg", pkgConfig: ffmpegPackage,
      providers: [
        .apt(["libavformat-dev", "libavcodec-dev", "libavutil-dev", "libswscale-dev", "libswresample-dev"]),
        .brew(["ffmpeg"]),
      ]),
    .target(
      name: "CMedia", dependencies: ["CVips", "CFFmpeg"],
      linkerSettings: ["vips", "avformat", "avcodec", "avutil", "swscale", "swresample"].map { .linkedLibrary($0) }),

    // Tensors, layers, files.
    library("Torch", ["CTorch"]),
    library("TorchNN", ["Torch"]),
    library("Checkpoints", ["Torch", "TorchNN"]),
    library("Tokenizers"),
    library("Media", ["CMedia"]),

    // The heart, and the frozen towers around it.
    library("QFormer", ["Torch", "TorchNN"]),
    library("Backbones", ["Torch", "TorchNN", "Checkpoints"]),

    // What people call.
    library("Pipelines", ["Torch", "TorchNN", "Checkpoints", "Tokenizers", "Media", "QFormer", "Backbones"]),
    library("Evaluation"),
    library(
      "Training",
      [
        "Torch", "TorchNN", "Checkpoints", "Tokenizers", "Media", "QFormer", "Backbones", "Pipelines", "Evaluation",
        "Yams",
      ]),
    .executableTarget(
      name: "CommandLineTool",
      dependencies: [
        "Torch", "TorchNN", "Checkpoints", "Media", "QFormer", "Backbones", "Pipelines", "Training", "Evaluation",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: settings),

    // Tests.
    .target(
      name: "TestSupport", dependencies: ["Torch", "Checkpoints"], path: "Tests/TestSupport", swiftSettings: settings),
    tests("Torch"),
    tests("TorchNN", ["Torch", "Checkpoints"]),
    tests("Checkpoints", ["Torch", "TorchNN"]),
    tests("Tokenizers"),
    tests("Media"),
    tests("QFormer", ["Torch", "TorchNN", "Checkpoints"]),
    tests("Backbones", ["Torch", "TorchNN", "Checkpoints"]),
    tests("Pipelines", ["Torch", "TorchNN", "Checkpoints", "Media"]),
    tests("Evaluation"),
    tests("Training", ["Torch", "TorchNN", "Checkpoints", "Pipelines", "QFormer"]),
    .testTarget(
      name: "CommandLineToolTests", dependencies: ["CommandLineTool", "TestSupport"], swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx20)
