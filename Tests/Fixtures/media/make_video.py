"""Writes the video and sound fixtures of MediaTests, and what ffmpeg, ffprobe and the Python references make of them.

Run it here:  python make_video.py KALDI.PY      (rm -r video first, to make everything anew)
Needs ffmpeg 5.1 with libx264, libx265, libvpx, libsvtav1, libtheora, libvorbis, libopus, libmp3lame; espeak-ng; numpy,
Pillow, safetensors, torch, transformers. KALDI.PY is the file torchaudio/compliance/kaldi.py out of a torchaudio wheel.

`video.json` lists
  clips:   file, what its headers say, `times` of all frames in seconds from the file's start (ffprobe), `crc` of every
           frame's RGB rows (ffmpeg, zlib's CRC-32), `strip`: a PNG with some frames one below the other, `shown`: which
  bad:     files that must be refused, and how
  sounds:  file, samples at 16 kHz, their first time, every 37th sample is in sounds.safetensors (ffmpeg)
`features.safetensors` holds every fifth frame of Whisper's and every third of Kaldi's features of speech.flac.
"""

import importlib.util
import json
import os
import struct
import subprocess
import sys
import tempfile
import types
import zlib

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "video")
SWS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
manifest = {"clips": [], "bad": [], "sounds": []}


def path(name):
    return os.path.join(OUT, name)


def run(*command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **more).stdout


def ffmpeg(*arguments, **more):
    return run("ffmpeg", "-v", "error", "-nostdin" if "input" not in more else "-y", "-y", *arguments, **more)


def pattern(width, height, count):
    """Frames that all differ, smooth colours and a box that moves: [N, H, W, 3] uint8."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / width, y / height
    frames = []
    for n in range(count):
        red = 128 + 100 * np.sin(4 * u + 0.15 * n)
        green = 40 + 180 * v
        blue = 128 + 100 * np.cos(3 * v - 0.1 * n)
        frame = np.clip(np.rint(np.stack([red, green, blue], -1)), 0, 255).astype(np.uint8)
        left, top = int(n * 1.7) % (width - 12), int(n * 0.6) % (height - 9)
        frame[top:top + 9, left:left + 12] = [230, 40 + n * 4 % 200, 30]
        frame[:6, :n % width + 1] = 250
        frames.append(frame)
    return np.stack(frames)


def encode(name, *arguments, width=64, height=48, count=30, rate="25", sound=None, before=()):
    """A clip from `pattern`, with a sound track when `sound` names its codec options; one that is there is kept."""
    if os.path.exists(path(name)):
        return
    inputs = [*before, "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", rate, "-i", "-"]
    if sound:
        inputs += ["-i", path("speech.flac"), "-map", "0:v", "-map", "1:a", "-t", str(count / eval(rate)), *sound]
    ffmpeg(*inputs, "-fflags", "+bitexact", "-flags", "+bitexact", *arguments, path(name),
           input=pattern(width, height, count).tobytes())


def probe(name, *arguments):
    return json.loads(run("ffprobe", "-v", "error", "-of", "json", *arguments, path(name)))


def expect(name, rotation=0, shown=3, track="v:0", **more):
    """Records what ffprobe and ffmpeg say of a clip."""
    headers = probe(name, "-show_format", "-show_streams", "-show_entries", "frame=stream_index,best_effort_timestamp_time")
    stream = [s for s in headers["streams"] if s["codec_type"] == "video"][int(track[2:])]
    listed = [f for f in headers["frames"] if f["stream_index"] == stream["index"]]
    start = float(headers["format"].get("start_time", 0))
    times = []
    for f in listed:  # AVI does not say when its last frame is shown: one frame later than the one before
        step = 1 / float(eval(stream["avg_frame_rate"]))
        time = f.get("best_effort_timestamp_time")
        times.append(round(float(time) - start if time else times[-1] + step, 6))
    width, height = stream["width"], stream["height"]
    command = ["-vsync", "passthrough", "-noautorotate", "-i", path(name), "-map", f"0:{track}"]
    raw = ffmpeg(*command, "-vf", f"scale=flags={SWS},format=rgb24", "-f", "rawvideo", "-")
    frames = np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)
    assert len(frames) == len(times), (name, len(frames), len(times))
    if rotation:
        frames = np.rot90(frames, -rotation // 90, axes=(1, 2))
        # The same way round as ffmpeg turns it, up to the interpolation of chroma.
        turned = np.frombuffer(ffmpeg("-vsync", "passthrough", "-i", path(name), "-map", f"0:{track}", "-pix_fmt", "rgb24",
                                      "-f", "rawvideo", "-"), np.uint8).reshape(frames.shape)
        assert np.abs(turned.astype(int) - frames).mean() < 6, name
    record(name, frames, times, shown, container=headers["format"]["format_name"], codec=stream["codec_name"],
           rotation=rotation, duration=float(headers["format"]["duration"]),
           rate=round(float(eval(stream["avg_frame_rate"])), 6),
           videos=sum(s["codec_type"] == "video" for s in headers["streams"]),
           sounds=sum(s["codec_type"] == "audio" for s in headers["streams"]), **more)


def record(name, frames, times, shown, **more):
    places = sorted({i * (len(frames) - 1) // max(shown - 1, 1) for i in range(shown)})
    strip = name + ".png"
    Image.fromarray(np.ascontiguousarray(np.concatenate([frames[p] for p in places]))).save(path(strip), optimize=True)
    manifest["clips"].append({
        "file": name, "width": frames.shape[2], "height": frames.shape[1], "times": times,
        "crc": [zlib.crc32(np.ascontiguousarray(f).tobytes()) for f in frames], "strip": strip, "shown": places, **more})


def bad(name, error, data=None):
    if data is not None:
        with open(path(name), "wb") as f:
            f.write(data)
    manifest["bad"].append({"file": name, "error": error})


def content(name):
    with open(path(name), "rb") as f:
        return f.read()


def boxes(data, kind):
    """The places of the boxes of a kind in an MP4 file, found by their names."""
    place = data.find(kind)
    while place >= 0:
        yield place - 4
        place = data.find(kind, place + 1)


# ---------------------------------------------------------------- video

X264 = ["-c:v", "libx264", "-preset", "medium", "-crf", "30", "-threads", "1", "-pix_fmt", "yuv420p"]


def videos():
    aac = ["-c:a", "aac", "-b:a", "24k", "-ac", "1"]
    encode("bframes.mp4", *X264, "-bf", "3", "-g", "12", count=50, sound=aac)
    expect("bframes.mp4")
    encode("vp9.webm", "-c:v", "libvpx-vp9", "-crf", "45", "-b:v", "0", "-g", "10", count=25,
           sound=["-c:a", "libopus", "-b:a", "12k"])
    expect("vp9.webm")
    # Variable frame rate: frames 0, 1, 2, 5, 9, 14, 20, 21, ... of 30 a second.
    encode("variable.mkv", "-vf", r"select=eq(mod(n\,7)\,0)+eq(mod(n\,7)\,1)+eq(mod(n\,5)\,2)", "-vsync", "vfr", *X264,
           "-bf", "2", "-g", "6", count=60, rate="30", sound=["-c:a", "libvorbis", "-q:a", "0"])
    expect("variable.mkv")
    encode("mjpeg.avi", "-c:v", "mjpeg", "-q:v", "12", "-pix_fmt", "yuvj422p", count=8, rate="10",
           sound=["-c:a", "pcm_u8", "-ar", "8000"])
    expect("mjpeg.avi")
    encode("mpeg4.avi", "-c:v", "mpeg4", "-bf", "2", "-g", "10", "-q:v", "9", count=25,
           sound=["-c:a", "libmp3lame", "-b:a", "24k"])
    expect("mpeg4.avi")
    if not os.path.exists(path("turned270.mov")):
        encode("turned.mov", *X264, count=6, height=32)
    for turn in (90, 180, 270):
        # ffmpeg 5.1 counts this one anticlockwise, and writes it when it copies only.
        if os.path.exists(path("turned.mov")):
            ffmpeg("-i", path("turned.mov"), "-c", "copy", "-metadata:s:v", f"rotate={360 - turn}", "-fflags", "+bitexact",
                   path(f"turned{turn}.mov"))
        expect(f"turned{turn}.mov", rotation=turn)
    if os.path.exists(path("turned.mov")):
        os.remove(path("turned.mov"))
    encode("odd.webm", "-c:v", "libvpx", "-crf", "40", "-b:v", "100k", "-auto-alt-ref", "0", width=53, height=37, count=10)
    expect("odd.webm")
    encode("theora.ogv", "-c:v", "libtheora", "-q:v", "3", "-g", "8", count=20, sound=["-c:a", "libvorbis", "-q:a", "0"])
    expect("theora.ogv")
    encode("transport.ts", *X264, "-g", "10", "-bf", "2", count=25, sound=["-c:a", "mp2", "-b:a", "32k"])
    expect("transport.ts")
    encode("program.mpg", "-c:v", "mpeg2video", "-g", "9", "-bf", "2", "-q:v", "12", count=20)
    expect("program.mpg")
    encode("deep.mkv", "-c:v", "libx265", "-x265-params", "log-level=error:pools=1:crf=34", "-pix_fmt", "yuv420p10le",
           "-colorspace", "bt709", count=12)
    expect("deep.mkv")
    encode("av1.mp4", "-c:v", "libsvtav1", "-crf", "50", "-preset", "8", "-pix_fmt", "yuv420p", height=64, count=12)
    expect("av1.mp4")
    encode("full_range.mp4", *X264, "-vf", "scale=out_range=pc:out_color_matrix=bt709", "-color_range", "pc",
           "-colorspace", "bt709", count=5)
    expect("full_range.mp4")
    encode("wide_pixels.mp4", *X264, "-vf", "setsar=2", count=4)
    expect("wide_pixels.mp4")
    encode("one.mp4", *X264, count=1)
    expect("one.mp4", shown=1)
    encode("fragments.mp4", *X264, "-g", "10", "-movflags", "frag_keyframe+empty_moov", count=30)
    expect("fragments.mp4")
    # Two of each: the second video is larger, but the first is marked default.
    with tempfile.TemporaryDirectory() as folder:
        other = os.path.join(folder, "other.mp4")
        ffmpeg("-f", "lavfi", "-i", "color=red:s=96x64:d=0.4:r=10", *X264, other)
        ffmpeg("-i", path("bframes.mp4"), "-i", other, "-map", "1:v", "-map", "0:v", "-map", "0:a", "-map", "0:a", "-c",
               "copy", "-disposition:v:0", "0", "-disposition:v:1", "default", "-fflags", "+bitexact", path("two.mkv"))
    expect("two.mkv", track="v:1")
    # The video begins half a second after the sound.
    ffmpeg("-i", path("bframes.mp4"), "-itsoffset", "0.5", "-i", path("bframes.mp4"), "-map", "1:v", "-map", "0:a", "-c",
           "copy", "-fflags", "+bitexact", path("late.mkv"))
    expect("late.mkv")


def animations():
    frames = pattern(40, 30, 7)
    delays = [100, 40, 300, 200, 70, 500, 90]
    pictures = [Image.fromarray(f) for f in frames]
    quantized = [p.quantize(32, dither=Image.Dither.NONE) for p in pictures]
    quantized[0].save(path("moving.gif"), save_all=True, append_images=quantized[1:], duration=delays, loop=0, disposal=1)
    pictures[0].save(path("moving.webp"), save_all=True, append_images=pictures[1:], duration=delays, lossless=True)
    times = [sum(delays[:i]) / 1000 for i in range(len(delays))]
    listed = probe("moving.gif", "-show_entries", "frame=best_effort_timestamp_time")["frames"]
    assert [float(f["best_effort_timestamp_time"]) for f in listed] == times
    more = {"rotation": 0, "duration": sum(delays) / 1000, "rate": round(7000 / sum(delays), 6), "videos": 1, "sounds": 0}
    gif = np.stack([np.asarray(q.convert("RGB")) for q in quantized])
    record("moving.gif", gif, times, 3, container="gif", codec="gif", **more)
    record("moving.webp", frames, times, 3, container="webp", codec="webp", **more)


# ---------------------------------------------------------------- bad files


def bad_files():
    whole = content("bframes.mp4")
    bad("text.mp4", "unsupportedOrCorrupt", b"This is a text and no film.\n" * 20)
    bad("cut.mp4", "unsupportedOrCorrupt", whole[:len(whole) * 2 // 3])  # the index comes last and is gone
    bad("playlist.mp4", "unsupportedOrCorrupt",
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nbframes.mp4\n#EXT-X-ENDLIST\n")
    bad("concat.mp4", "unsupportedOrCorrupt", b"ffconcat version 1.0\nfile 'bframes.mp4'\n")
    bad("session.mp4", "unsupportedOrCorrupt",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n")
    # The sample description promises 16384 x 16384 pixels.
    wide = bytearray(content("one.mp4"))
    for place in boxes(wide, b"avc1"):
        if wide[place + 8:place + 14] == bytes(6):
            struct.pack_into(">HH", wide, place + 32, 16384, 16384)
    bad("wide.mp4", "tooLarge", bytes(wide))
    # A header alone that promises ten hours.
    data = content("one.mp4")
    moov = next(boxes(data, b"moov"))
    head = bytearray(data[:next(boxes(data, b"mdat"))] + data[moov:moov + struct.unpack_from(">I", data, moov)[0]])
    for kind in (b"mvhd", b"mdhd"):
        for place in boxes(head, kind):
            scale = struct.unpack_from(">I", head, place + 20)[0]
            struct.pack_into(">I", head, place + 24, 36000 * scale)
    bad("header.mp4", "unsupportedOrCorrupt", bytes(head))
    bad("sound.mp4", "noTrack")
    ffmpeg("-i", path("speech.flac"), "-c:a", "aac", "-b:a", "16k", "-t", "0.5", "-fflags", "+bitexact", path("sound.mp4"))

    # Not refused: frames before and after the damage are kept.
    ffmpeg("-i", path("bframes.mp4"), "-c", "copy", "-movflags", "faststart", "-fflags", "+bitexact", path("fast.mp4"))
    fast = content("fast.mp4")
    with open(path("cut_fast.mp4"), "wb") as f:
        f.write(fast[:next(boxes(fast, b"mdat")) + (len(fast) - next(boxes(fast, b"mdat"))) // 2])
    os.remove(path("fast.mp4"))
    damage()
    # The container says 80 x 60, the frames are 64 x 48.
    lying = bytearray(content("one.mp4"))
    for place in boxes(lying, b"avc1"):
        if lying[place + 8:place + 14] == bytes(6):
            struct.pack_into(">HH", lying, place + 32, 80, 60)
    with open(path("lying.mp4"), "wb") as f:
        f.write(lying)


def damage():
    """A stream of which some packets never came, and a film with a tenth of its frames' bytes overwritten."""
    whole = content("transport.ts")
    packets = [whole[i:i + 188] for i in range(0, len(whole), 188)]
    with open(path("damaged.ts"), "wb") as f:
        f.write(b"".join(packets[:len(packets) * 4 // 10] + packets[len(packets) * 5 // 10:]))
    film = bytearray(content("bframes.mp4"))
    start = next(boxes(film, b"mdat"))
    length = struct.unpack_from(">I", film, start)[0]
    for place in range(start + length * 4 // 10, start + length * 5 // 10):
        film[place] = 0x55
    with open(path("damaged.mp4"), "wb") as f:
        f.write(film)


# ---------------------------------------------------------------- sound


def speech():
    if os.path.exists(path("speech.flac")):
        return
    with tempfile.TemporaryDirectory() as folder:
        wav = os.path.join(folder, "speech.wav")
        run("espeak-ng", "-v", "en", "-s", "160", "-w", wav, "A bee moves left, then an apple appears.")
        ffmpeg("-i", wav, "-ar", "16000", "-ac", "1", "-sample_fmt", "s16", "-fflags", "+bitexact", path("speech.flac"))


def first_sound(name):
    """When the first samples that come out of the decoder are heard, in seconds from the file's start."""
    found = probe(name, "-show_format", "-select_streams", "a:0", "-show_entries", "frame=best_effort_timestamp_time")
    return float(found["frames"][0]["best_effort_timestamp_time"]) - float(found["format"].get("start_time", 0))


def sounds():
    source = ["-i", path("speech.flac"), "-fflags", "+bitexact", "-flags", "+bitexact"]
    ffmpeg(*source, "-ar", "22050", "-b:a", "24k", "-c:a", "libmp3lame", path("speech.mp3"))
    ffmpeg(*source, "-c:a", "libvorbis", "-q:a", "0", path("speech.ogg"))
    ffmpeg(*source, "-ar", "44100", "-ac", "2", "-c:a", "aac", "-b:a", "32k", path("speech.m4a"))
    ffmpeg(*source, "-t", "0.4", "-af", "pan=stereo|c0=c0|c1=-0.5*c0,aresample=44100", "-c:a", "pcm_s16le", path("stereo.wav"))
    ffmpeg(*source, "-t", "0.5", "-ar", "11025", "-c:a", "pcm_u8", path("narrow.wav"))
    kept = {}
    for name in ("speech.flac", "speech.mp3", "speech.ogg", "speech.m4a", "stereo.wav", "narrow.wav", "bframes.mp4",
                 "vp9.webm", "variable.mkv", "mpeg4.avi", "transport.ts"):
        raw = ffmpeg("-i", path(name), "-vn", "-af", "aresample=16000:rematrix_maxval=1:ochl=mono:osf=flt,"
                     "aformat=sample_fmts=flt:channel_layouts=mono", "-f", "f32le", "-c:a", "pcm_f32le", "-")
        samples = np.frombuffer(raw, np.float32)
        kept[name] = samples[::37].copy()
        start = first_sound(name)
        manifest["sounds"].append({"file": name, "count": len(samples), "start": round(start, 6)})
    save_file(kept, path("sounds.safetensors"))


def features(kaldi_file):
    import torch
    from transformers import WhisperFeatureExtractor

    raw = ffmpeg("-i", path("speech.flac"), "-f", "f32le", "-c:a", "pcm_f32le", "-")
    samples = np.frombuffer(raw, np.float32)
    extractor = WhisperFeatureExtractor()
    whisper = extractor(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]
    large = WhisperFeatureExtractor(feature_size=128)(samples, sampling_rate=16000, return_tensors="np")["input_features"][0]
    precise = extractor._np_extract_fbank_features(np.pad(samples, (0, 480000 - len(samples)))[None].astype(np.float64), "cpu")[0]
    print("Whisper, float32 against float64:", np.abs(whisper - precise).max())

    sys.modules["torchaudio"] = types.ModuleType("torchaudio")
    spec = importlib.util.spec_from_file_location("kaldi", kaldi_file)
    kaldi = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kaldi)

    def fbank(waveform):
        return kaldi.fbank(waveform[None], htk_compat=True, sample_frequency=16000, use_energy=False,
                           window_type="hanning", num_mel_bins=128, dither=0.0, frame_length=25, frame_shift=10).T

    waveform = torch.from_numpy(samples.copy())
    plain, exact = fbank(waveform), fbank(waveform.double())
    print("Kaldi, float32 against float64:", (plain - exact).abs().max().item())
    clip = waveform[8000:40000].double()
    bind = torch.nn.functional.pad(fbank(clip - clip.mean()), (0, 204 - 198))
    bind = (bind + 4.268) / 9.138
    save_file({
        "whisper": np.ascontiguousarray(whisper[:, 0:300:5]), "whisper_end": np.ascontiguousarray(whisper[:, -3:]),
        "whisper_large": np.ascontiguousarray(large[:, 0:300:15]),
        "kaldi": np.ascontiguousarray(exact.float().numpy()[:, ::3]),
        "imagebind": np.ascontiguousarray(bind.float().numpy()[:, ::3]),
        "shapes": np.array([*whisper.shape, *exact.shape, *bind.shape], np.int64),
    }, path("features.safetensors"))


if __name__ == "__main__":
    os.makedirs(OUT, exist_ok=True)
    speech()
    videos()
    animations()
    bad_files()
    sounds()
    features(sys.argv[1])
    with open(os.path.join(HERE, "video.json"), "w") as f:
        json.dump(manifest, f, indent=1)
        f.write("\n")
