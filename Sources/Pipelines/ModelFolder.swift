import Backbones
public import Foundation

/// What a model folder holds: an adapter of this package, or a published model with all its parts.
public enum ModelFolder: Sendable, Equatable {
  /// An adapter, which names the frozen models that it stands between.
  case adapter(AdapterConfiguration)
  /// BLIP-2 or InstructBLIP in Hugging Face layout.
  case blip(BLIPConfiguration)

  /// Reads `config.json` of a folder.
  ///
  /// - Throws: ``PipelineError`` or `BackboneError` that names the file and the field, or lists the known model types.
  public init(_ folder: URL) throws {
    let adapters = AdapterConfiguration.Kind.allCases.map(\.rawValue)
    switch try ModelType(folder: folder).name {
    case let type? where adapters.contains(type): self = .adapter(try AdapterConfiguration(folder: folder))
    case let type? where BLIPConfiguration.modelTypes.contains(type):
      self = .blip(try readConfiguration(BLIPConfiguration.self, folder: folder))
    case let type:
      let known = adapters + BLIPConfiguration.modelTypes
      throw PipelineError.wrongModel(
        folder: folder.path, expected: "model_type \(known.joined(separator: " or "))",
        found: type.map { "model_type \($0)" } ?? "none")
    }
  }

  /// Whether it compares images and texts; else it writes text. Video adapters may do both: their heads say.
  public var comparesTexts: Bool {
    switch self {
    case .adapter(let configuration): configuration.kind == .imageText
    case .blip(let configuration): !configuration.architecture.hasLanguageModel
    }
  }

  /// Whether it is a video adapter: a ``VideoPipeline`` takes it.
  public var isVideoAdapter: Bool {
    if case .adapter(let configuration) = self { configuration.kind.readsVideo } else { false }
  }

  /// Whether it is an adapter for sound alone: an ``AudioPipeline`` takes it.
  public var isAudioAdapter: Bool {
    if case .adapter(let configuration) = self { configuration.kind == .audioLanguage } else { false }
  }

  /// Whether it hears: an adapter with a branch for sound.
  public var hears: Bool {
    if case .adapter(let configuration) = self { configuration.audio != nil } else { false }
  }

  /// Whether it reads clips: a video adapter, or InstructBLIP-Video.
  public var readsVideo: Bool {
    if case .blip(let configuration) = self { return configuration.architecture == .instructBLIPVideo }
    return isVideoAdapter
  }

  /// The kinds that read clips, in words.
  public static let videoKinds: String = {
    let adapters = AdapterConfiguration.Kind.allCases.filter(\.readsVideo).map(\.rawValue)
    return "\(adapters.joined(separator: ", ")) or \(BLIPConfiguration.Architecture.instructBLIPVideo.modelType)"
  }()

  /// What it is and does, for errors.
  public var words: String {
    isVideoAdapter
      ? "\(name), which reads videos"
      : isAudioAdapter ? "\(name), which reads sound" : "\(name), which \(comparesTexts ? "compares" : "writes") texts"
  }

  /// What it is, in the words of its `config.json`.
  public var name: String {
    switch self {
    case .adapter(let configuration): configuration.kind.rawValue
    case .blip(let configuration): configuration.architecture.rawValue
    }
  }
}
