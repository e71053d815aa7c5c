"""Writes the still-picture fixtures of MediaTests, and what Pillow makes of them.

Run it here:  python make_media.py      (needs Pillow with WebP, AVIF and littleCMS, and numpy)

Every picture comes from formulas in this file. `manifest.json` lists
  decode:  file, width, height, expected (raw RGB rows), most (largest difference allowed in one value),
           mean (largest mean difference allowed), and where the expectation comes from
  bad:     files that must be refused
  resize:  source, width, height, expected PNG: Pillow's `resize(..., BICUBIC)`
"""

import io
import json
import os
import struct
import zlib

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

HERE = os.path.dirname(os.path.abspath(__file__))
FILES = os.path.join(HERE, "files")
EXPECTED = os.path.join(HERE, "expected")
manifest = {"decode": [], "bad": [], "resize": []}


# ---------------------------------------------------------------- pictures from formulas


def waves(width, height):
    """Smooth colours, no symmetry, [H, W, 3] uint8: every orientation looks different."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    red = 128 + 110 * np.sin(5 * u + 2 * v * v)
    green = 255 * u * (1 - 0.4 * v)
    blue = 255 * v * v
    return np.clip(np.rint(np.stack([red, green, blue], -1)), 0, 255).astype(np.uint8)


def scene(width, height):
    """Something like a photograph: gradients, hard edges, fine stripes, a little noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / width, y / height
    base = np.stack([90 + 120 * v, 140 - 60 * u * v, 200 - 150 * v * v], -1)
    disc = (u - 0.35) ** 2 + 0.6 * (v - 0.4) ** 2 < 0.05
    base[disc] = [230, 190, 60]
    base[(v > 0.7) & ((u * 9) % 1 < 0.5)] = [40, 60, 30]
    base += (25 * np.sin(700 * (u - 0.7) ** 2 + 500 * (v - 0.2) ** 2))[..., None] * (u > 0.5)[..., None]
    noise = np.random.default_rng(7).normal(0, 3, base.shape)
    return np.clip(np.rint(base + noise), 0, 255).astype(np.uint8)


def noise(width, height, seed):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def over_white(rgb, alpha):
    """Rounded to nearest."""
    a = alpha[..., None].astype(np.int64)
    return ((rgb.astype(np.int64) * a + 255 * (255 - a) + 127) // 255).astype(np.uint8)


# ---------------------------------------------------------------- writing


def path(name):
    return os.path.join(FILES, name)


def expect(name, rgb, most=0, mean=0.0, origin="formula"):
    rgb = np.asarray(rgb)
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3, (name, rgb.dtype, rgb.shape)
    raw = name + ".rgb"
    with open(os.path.join(EXPECTED, raw), "wb") as f:
        f.write(np.ascontiguousarray(rgb).tobytes())
    manifest["decode"].append(
        {"file": name, "width": rgb.shape[1], "height": rgb.shape[0], "expected": raw, "most": most, "mean": mean,
         "origin": origin})


def save(name, image, **options):
    image.save(path(name), **options)
    return path(name)


def pillow(name):
    with Image.open(path(name)) as image:
        return np.asarray(image.convert("RGB"))


def write(name, data):
    with open(path(name), "wb") as f:
        f.write(data)


def read(name):
    with open(path(name), "rb") as f:
        return f.read()


def refuse(name, error):
    manifest["bad"].append({"file": name, "error": error})


# ---------------------------------------------------------------- ICC profiles, built field by field


def s15(value):
    return struct.pack(">i", int(round(value * 65536)))


def xyz(x, y, z):
    return b"XYZ \0\0\0\0" + s15(x) + s15(y) + s15(z)


def text(tag, words):
    raw = words.encode() + b"\0"
    if tag == b"desc":
        return b"desc\0\0\0\0" + struct.pack(">I", len(raw)) + raw + bytes(8) + bytes(3) + bytes(67)
    return b"text\0\0\0\0" + raw


def gamma(value):
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, int(round(value * 256)))


def profile(device_class, space, pcs, tags):
    tags = [(b"desc", text(b"desc", "fixture")), (b"cprt", text(b"cprt", "none")),
            (b"wtpt", xyz(0.9642, 1.0, 0.8249))] + tags
    table, body, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags:
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", at + len(body), len(data))
        body += data
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, device_class, space, pcs)
    head += struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + s15(0.9642) + s15(1.0) + s15(0.8249)
    head += bytes(128 - len(head))
    return head + struct.pack(">I", len(tags)) + table + body


def wide_profile():
    """RGB with wider primaries than sRGB (adapted to D50) and gamma 1.8."""
    return profile(b"mntr", b"RGB ", b"XYZ ", [
        (b"rXYZ", xyz(0.5151, 0.2412, -0.0011)), (b"gXYZ", xyz(0.2919, 0.6922, 0.0419)),
        (b"bXYZ", xyz(0.1572, 0.0666, 0.7841)),
        (b"rTRC", gamma(1.8)), (b"gTRC", gamma(1.8)), (b"bTRC", gamma(1.8))])


def grey_profile():
    return profile(b"mntr", b"GRAY", b"XYZ ", [(b"kTRC", gamma(1.4))])


def ink_profile():
    """CMYK to CIELAB through a table of 2 points an ink (mft2), and the way back that some readers ask for."""
    def lut(inputs, outputs, grid, table):
        data = b"mft2\0\0\0\0" + bytes([inputs, outputs, grid, 0])
        for i in range(3):
            for j in range(3):
                data += s15(1.0 if i == j else 0.0)
        data += struct.pack(">HH", 2, 2) + struct.pack(">HH", 0, 65535) * inputs
        data += b"".join(struct.pack(">H", int(v)) for v in np.clip(np.rint(table), 0, 65535).ravel())
        return data + struct.pack(">HH", 0, 65535) * outputs
    points = []
    for c in (0, 1):
        for m in (0, 1):
            for y in (0, 1):
                for k in (0, 1):
                    light = (95 - 35 * c - 45 * m - 8 * y) * (1 - 0.85 * k)
                    a = (-30 * c + 65 * m - 5 * y) * (1 - k)
                    b = (-45 * c - 8 * m + 80 * y) * (1 - k)
                    points.append([max(light, 3) / 100 * 65280, (a + 128) * 256, (b + 128) * 256])
    back = [[65535 * (1 - l), 32768 * (1 - a), 32768 * b, 65535 * (1 - l)]
            for l in (0, 1) for a in (0, 1) for b in (0, 1)]
    forward = lut(4, 3, 2, np.array(points))
    backward = lut(3, 4, 2, np.array(back))
    return profile(b"prtr", b"CMYK", b"Lab ", [(b"A2B0", forward), (b"B2A0", backward), (b"A2B1", forward),
                                               (b"B2A1", backward)])


def through(icc, image):
    """What littleCMS makes of an image: relative colorimetric with black point compensation to sRGB."""
    transform = ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(icc)), ImageCms.createProfile("sRGB"), image.mode, "RGB",
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
    return np.asarray(ImageCms.applyTransform(image, transform))


# ---------------------------------------------------------------- PNG chunk by chunk (kinds Pillow does not write)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, colour, rows, extra=b"", interlace=0):
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = b"".join(b"\0" + row for row in rows)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(body, 9)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- the cases


def pngs():
    rgb = waves(33, 21)
    h, w = rgb.shape[:2]
    grey = rgb[..., 0]
    alpha = np.rint(np.linspace(0, 255, w * h)).astype(np.uint8).reshape(h, w)
    save("rgb.png", Image.fromarray(rgb))
    expect("rgb.png", rgb)
    save("grey.png", Image.fromarray(grey))
    expect("grey.png", np.repeat(grey[..., None], 3, -1))
    save("rgba.png", Image.fromarray(np.dstack([rgb, alpha])))
    expect("rgba.png", over_white(rgb, alpha))
    save("la.png", Image.fromarray(np.dstack([grey, alpha])))
    expect("la.png", over_white(np.repeat(grey[..., None], 3, -1), alpha))
    bits = (grey > 127)
    save("bilevel.png", Image.fromarray(bits))
    expect("bilevel.png", np.repeat((bits * 255).astype(np.uint8)[..., None], 3, -1))
    palette = Image.fromarray(rgb).quantize(60)
    save("palette.png", palette)
    expect("palette.png", np.asarray(palette.convert("RGB")), origin="Pillow")
    clear = palette.copy()
    save("palette_clear.png", clear, transparency=bytes((i * 5) % 256 for i in range(60)))
    with Image.open(path("palette_clear.png")) as image:
        rgba = np.asarray(image.convert("RGBA"))
    expect("palette_clear.png", over_white(rgba[..., :3], rgba[..., 3]), origin="Pillow")
    for bits_ in (1, 2, 4):
        few = Image.fromarray(rgb).quantize(1 << bits_)
        save(f"palette{bits_}.png", few, bits=bits_)
        expect(f"palette{bits_}.png", np.asarray(few.convert("RGB")), origin="Pillow")
    # 16 bits: the upper byte counts.
    deep = rgb.astype(np.uint16) * 256 + (np.arange(w * h * 3).reshape(h, w, 3) * 37 % 256).astype(np.uint16)
    exact = rgb.astype(np.uint16) * 257
    deep_alpha = alpha.astype(np.uint16) * 256 + 77
    rows = [r.astype(">u2").tobytes() for r in deep]
    write("rgb16.png", png(w, h, 16, 2, rows))
    expect("rgb16.png", rgb)
    assert (pillow("rgb16.png") == rgb).all()
    write("grey16.png", png(w, h, 16, 0, [r.astype(">u2").tobytes() for r in deep[..., 0]]))
    expect("grey16.png", np.repeat(grey[..., None], 3, -1))
    write("rgba16.png", png(w, h, 16, 6, [r.astype(">u2").tobytes() for r in np.dstack([deep, deep_alpha])]))
    expect("rgba16.png", over_white(rgb, alpha))
    write("la16.png", png(w, h, 16, 4, [r.astype(">u2").tobytes() for r in np.dstack([deep[..., 0], deep_alpha])]))
    expect("la16.png", over_white(np.repeat(grey[..., None], 3, -1), alpha))
    # One colour stands for transparent.
    key = rgb.copy()
    key[5:9, 3:12] = [1, 2, 3]
    write("rgb_key.png", png(w, h, 8, 2, [r.tobytes() for r in key], chunk(b"tRNS", struct.pack(">3H", 1, 2, 3))))
    keyed = key.copy()
    keyed[(key == [1, 2, 3]).all(-1)] = 255
    expect("rgb_key.png", keyed)
    write("one.png", png(1, 1, 8, 2, [b"\x10\x80\xf0"]))
    expect("one.png", np.array([[[16, 128, 240]]], np.uint8))
    # Profiles: one that changes colours, one that is sRGB by another name, one for grey, one with alpha and 16 bits.
    wide = wide_profile()
    save("wide.png", Image.fromarray(rgb), icc_profile=wide)
    expect("wide.png", through(wide, Image.fromarray(rgb)), 2, 0.5, "littleCMS")
    assert np.abs(through(wide, Image.fromarray(rgb)).astype(int) - rgb).max() > 20
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    srgb = srgb[:24] + struct.pack(">6H", 2024, 1, 1, 0, 0, 0) + srgb[36:]  # not the time of this run
    save("srgb_profile.png", Image.fromarray(rgb), icc_profile=srgb)
    expect("srgb_profile.png", rgb)
    save("grey_profile.png", Image.fromarray(grey), icc_profile=grey_profile())
    expect("grey_profile.png", through(grey_profile(), Image.fromarray(grey)), 2, 0.6, "littleCMS")
    iccp = chunk(b"iCCP", b"fixture\0\0" + zlib.compress(wide))
    write("wide_rgba16.png", png(w, h, 16, 6, [r.astype(">u2").tobytes() for r in np.dstack([exact, deep_alpha])], iccp))
    expect("wide_rgba16.png", over_white(through(wide, Image.fromarray(rgb)), alpha), 3, 0.7, "littleCMS")
    # A CMYK profile in an RGB file fits nothing: it is as none.
    save("wrong_profile.png", Image.fromarray(rgb), icc_profile=ink_profile())
    expect("wrong_profile.png", rgb)


def jpegs():
    rgb = waves(48, 32)
    for name, options in {
        "plain": {"quality": 90}, "444": {"quality": 92, "subsampling": 0}, "progressive": {"quality": 85, "progressive": True},
    }.items():
        save(f"{name}.jpg", Image.fromarray(rgb), **options)
        expect(f"{name}.jpg", pillow(f"{name}.jpg"), 2, 0.5, "Pillow")
    save("grey.jpg", Image.fromarray(rgb[..., 0]), quality=90)
    expect("grey.jpg", pillow("grey.jpg"), 2, 0.5, "Pillow")
    ink = Image.fromarray(np.dstack([255 - rgb, (rgb[..., 1] // 3)]), "CMYK")
    save("cmyk.jpg", ink, quality=92)
    expect("cmyk.jpg", pillow("cmyk.jpg"), 2, 0.5, "Pillow")
    save("cmyk_profile.jpg", ink, quality=92, icc_profile=ink_profile())
    with Image.open(path("cmyk_profile.jpg")) as image:
        expect("cmyk_profile.jpg", through(ink_profile(), image), 3, 0.7, "littleCMS")
    save("wide.jpg", Image.fromarray(rgb), quality=92, icc_profile=wide_profile())
    with Image.open(path("wide.jpg")) as image:
        expect("wide.jpg", through(wide_profile(), image), 3, 0.7, "littleCMS")
    # The eight orientations: a left-over pixel more on each side than a block has, and no symmetry.
    odd = waves(41, 27)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        name = f"orientation{orientation}.jpg"
        save(name, Image.fromarray(odd), quality=90, subsampling=0, exif=exif)
        from PIL import ImageOps
        with Image.open(path(name)) as image:
            expect(name, np.asarray(ImageOps.exif_transpose(image).convert("RGB")), 2, 0.5, "Pillow")
    exif = Image.Exif()
    exif[0x0112] = 6
    save("orientation6.png", Image.fromarray(odd), exif=exif)
    expect("orientation6.png", np.rot90(odd, -1))
    save("orientation6.webp", Image.fromarray(odd), exif=exif, lossless=True)
    expect("orientation6.webp", np.rot90(odd, -1))


def others():
    rgb = waves(40, 26)
    h, w = rgb.shape[:2]
    grey = rgb[..., 2]
    alpha = np.rint(np.linspace(0, 255, w * h)).astype(np.uint8).reshape(h, w)
    white = over_white(rgb, alpha)
    save("lossless.webp", Image.fromarray(rgb), lossless=True)
    expect("lossless.webp", rgb)
    save("lossy.webp", Image.fromarray(rgb), quality=80)
    expect("lossy.webp", pillow("lossy.webp"), 2, 0.5, "Pillow")
    save("alpha.webp", Image.fromarray(np.dstack([rgb, alpha])), lossless=True, exact=True)
    expect("alpha.webp", white)
    frames = [Image.fromarray(np.roll(rgb, 7 * i, 1)) for i in range(3)]
    save("animated.webp", frames[0], save_all=True, append_images=frames[1:], duration=80, lossless=True)
    expect("animated.webp", rgb)
    quantised = [f.quantize(50) for f in frames]
    save("animated.gif", quantised[0], save_all=True, append_images=quantised[1:], duration=80)
    expect("animated.gif", np.asarray(quantised[0].convert("RGB")), origin="Pillow")
    index = np.asarray(quantised[0]).copy()
    index[4:12, 6:30] = 50
    clear = quantised[0].copy()
    clear.putdata(list(index.ravel()))
    save("clear.gif", clear, transparency=50)
    expected = np.asarray(quantised[0].convert("RGB")).copy()
    expected[4:12, 6:30] = 255
    expect("clear.gif", expected)
    save("lossless.avif", Image.fromarray(rgb), quality=100, subsampling="4:4:4")
    expect("lossless.avif", pillow("lossless.avif"), 2, 0.5, "Pillow")
    save("alpha.avif", Image.fromarray(np.dstack([rgb, alpha])), quality=95, subsampling="4:4:4")
    with Image.open(path("alpha.avif")) as image:
        rgba = np.asarray(image.convert("RGBA"))
    expect("alpha.avif", over_white(rgba[..., :3], rgba[..., 3]), 3, 0.7, "Pillow")
    exif = Image.Exif()
    exif[0x0112] = 6
    save("orientation6.avif", Image.fromarray(rgb), quality=100, subsampling="4:4:4", exif=exif)
    expect("orientation6.avif", np.rot90(rgb, -1), 4, 1.0)

    # TIFF
    save("rgb.tif", Image.fromarray(rgb), compression="tiff_lzw")
    expect("rgb.tif", rgb)
    save("rgba.tif", Image.fromarray(np.dstack([rgb, alpha])), compression="tiff_deflate")
    expect("rgba.tif", white)
    save("grey.tif", Image.fromarray(grey))
    expect("grey.tif", np.repeat(grey[..., None], 3, -1))
    save("bilevel.tif", Image.fromarray(grey > 127), compression="group4")
    expect("bilevel.tif", np.repeat(((grey > 127) * 255).astype(np.uint8)[..., None], 3, -1))
    save("palette.tif", Image.fromarray(rgb).quantize(64))
    expect("palette.tif", np.asarray(Image.fromarray(rgb).quantize(64).convert("RGB")), origin="Pillow")
    ink = Image.fromarray(np.dstack([255 - rgb, grey // 3]), "CMYK")
    save("cmyk.tif", ink)
    expect("cmyk.tif", np.asarray(ink.convert("RGB")), origin="Pillow")
    save("grey16.tif", Image.fromarray(grey.astype(np.uint16) * 256 + 200))
    expect("grey16.tif", np.repeat(grey[..., None], 3, -1))
    write("rgb16.tif", tiff(rgb.astype("<u2") * 256 + 99, 16, 1, 2))
    expect("rgb16.tif", rgb)
    write("rgba16.tif", tiff(np.dstack([rgb, alpha]).astype("<u2") * 256 + 99, 16, 1, 2, extra=2))
    expect("rgba16.tif", white)
    linear = (np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)).astype("<f4")
    write("float.tif", tiff(linear, 32, 3, 2))
    expect("float.tif", rgb, 1, 0.1)
    write("float_grey.tif", tiff(linear[..., 2:], 32, 3, 1))
    expect("float_grey.tif", np.repeat(grey[..., None], 3, -1), 1, 0.1)
    write("float_alpha.tif", tiff(np.dstack([linear, alpha.astype("<f4") / 255]), 32, 3, 2, extra=2))
    expect("float_alpha.tif", white, 2, 0.3)
    lab = Image.fromarray(rgb)
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    lab = ImageCms.applyTransform(lab, to_lab)
    lab.info.pop("icc_profile", None)  # it carries the time of this run
    save("lab.tif", lab)
    from_lab = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    # 8-bit CIELAB is coarse, and littleCMS itself is that far from the formula.
    expect("lab.tif", np.asarray(ImageCms.applyTransform(lab, from_lab)), 8, 1.5, "littleCMS")
    exif = Image.Exif()
    exif[0x0112] = 8
    save("orientation8.tif", Image.fromarray(rgb), exif=exif)
    expect("orientation8.tif", np.rot90(rgb, 1))
    pages = [Image.fromarray(rgb), Image.fromarray(255 - rgb)]
    save("pages.tif", pages[0], save_all=True, append_images=pages[1:])
    expect("pages.tif", rgb)


def tiff(samples, bits, sample_format, photometric, extra=None):
    """One uncompressed strip, little endian."""
    h, w, n = samples.shape
    body = samples.tobytes()
    fields = [(256, 4, [w]), (257, 4, [h]), (258, 3, [bits] * n), (259, 3, [1]), (262, 3, [photometric]),
              (273, 4, [8]), (277, 3, [n]), (278, 4, [h]), (279, 4, [len(body)]), (284, 3, [1])]
    if extra is not None:
        fields.append((338, 3, [extra]))
    fields.append((339, 3, [sample_format] * n))
    at = 8 + len(body) + len(body) % 2
    directory, tail = struct.pack("<H", len(fields)), b""
    end = at + 2 + 12 * len(fields) + 4
    for tag, kind, values in fields:
        raw = struct.pack("<" + ("H" if kind == 3 else "I") * len(values), *values)
        if len(raw) > 4:
            directory += struct.pack("<HHII", tag, kind, len(values), end + len(tail))
            tail += raw + bytes(len(raw) % 2)
        else:
            directory += struct.pack("<HHI", tag, kind, len(values)) + raw.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", at) + body + bytes(len(body) % 2) + directory + bytes(4) + tail


def bmp(width, height, bits, rows, palette=b"", masks=b"", compression=0, header=40, top_down=False, alpha=False):
    """Rows from top to bottom, unpadded."""
    rows = [r + bytes(-len(r) % 4) for r in rows]
    body = b"".join(rows if top_down else rows[::-1])
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, compression, len(body),
                           2835, 2835, len(palette) // 4, 0)
        if header > 40:
            info += masks
            info += bytes(header - len(info))
            masks = b""
    at = 14 + len(info) + len(masks) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at) + info + masks + palette + body


def bmps():
    rgb = waves(19, 11)
    h, w = rgb.shape[:2]
    bgr = rgb[..., ::-1]
    alpha = np.rint(np.linspace(0, 255, w * h)).astype(np.uint8).reshape(h, w)
    save("pillow.bmp", Image.fromarray(rgb))
    expect("pillow.bmp", rgb)
    rows24 = [r.tobytes() for r in bgr]
    write("top_down.bmp", bmp(w, h, 24, rows24, top_down=True))
    expect("top_down.bmp", rgb)
    write("core.bmp", bmp(w, h, 24, rows24, header=12))
    expect("core.bmp", rgb)
    rows32 = [np.dstack([r[None], np.full((1, w, 1), 7, np.uint8)]).tobytes() for r in bgr]
    write("bgrx.bmp", bmp(w, h, 32, rows32))
    expect("bgrx.bmp", rgb)
    # An alpha mask in a version 4 header, channels in the order RGBA.
    masks = struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0xFF000000)
    rows = [np.dstack([a[None], b[None, :, None]]).tobytes() for a, b in zip(rgb, alpha)]
    write("rgba_v4.bmp", bmp(w, h, 32, rows, masks=masks, compression=3, header=108))
    expect("rgba_v4.bmp", over_white(rgb, alpha))
    five = rgb >> 3
    rows = [(r[:, 0].astype("<u2") << 10 | r[:, 1].astype("<u2") << 5 | r[:, 2]).astype("<u2").tobytes() for r in five]
    write("555.bmp", bmp(w, h, 16, rows))
    expect("555.bmp", ((five.astype(int) * 255 + 15) // 31).astype(np.uint8))
    six = rgb[..., 1] >> 2
    rows = [(r[:, 0].astype("<u2") << 11 | g.astype("<u2") << 5 | r[:, 2]).astype("<u2").tobytes()
            for r, g in zip(five, six)]
    write("565.bmp", bmp(w, h, 16, rows, masks=struct.pack("<3I", 0xF800, 0x7E0, 0x1F), compression=3))
    expected = ((five.astype(int) * 255 + 15) // 31).astype(np.uint8)
    expected[..., 1] = (six.astype(int) * 255 + 31) // 63
    expect("565.bmp", expected)
    for bits in (1, 4, 8):
        few = Image.fromarray(rgb).quantize(1 << bits)
        index = np.asarray(few)
        colours = np.array(few.getpalette()[:3 << bits], np.uint8).reshape(-1, 3)
        colours = np.vstack([colours, np.zeros(((1 << bits) - len(colours), 3), np.uint8)])
        palette = b"".join(bytes([b, g, r, 0]) for r, g, b in colours)
        spread = ((index[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(h, -1)
        rows = [np.packbits(r).tobytes() for r in spread.astype(np.uint8)]
        write(f"palette{bits}.bmp", bmp(w, h, bits, rows, palette))
        expect(f"palette{bits}.bmp", colours[index])
        assert (pillow(f"palette{bits}.bmp") == colours[index]).all()


def bads():
    big = scene(160, 120)
    save("whole.jpg", Image.fromarray(big), quality=80)
    save("whole.png", Image.fromarray(big))
    for name, options in {"webp": {"quality": 80}, "gif": {}, "tif": {"compression": "tiff_lzw"}, "bmp": {}, "avif": {}}.items():
        save(f"whole.{name}", Image.fromarray(big), **options)
    save("whole_progressive.jpg", Image.fromarray(big), quality=80, progressive=True)
    for name in ["whole.jpg", "whole_progressive.jpg", "whole.png", "whole.webp", "whole.gif", "whole.tif", "whole.bmp",
                 "whole.avif"]:
        data = read(name)
        os.remove(path(name))
        short = "truncated_" + name.removeprefix("whole_").removeprefix("whole.")
        short = short if "." in short else "truncated." + short.removeprefix("truncated_")
        write(short, data[:len(data) // 3])
        refuse(short, "unsupportedOrCorrupt")
    write("text.png", b"This is no picture at all.\n")
    refuse("text.png", "unsupportedOrCorrupt")
    write("empty.png", b"")
    refuse("empty.png", "empty")
    write("huge.png", png(30000, 30000, 8, 2, [bytes(64)]))
    refuse("huge.png", "tooLarge")
    write("huge.bmp", bmp(30000, 30000, 24, []))
    refuse("huge.bmp", "tooLarge")
    write("missing_rows.bmp", bmp(2000, 2000, 24, [bytes(60)]))
    refuse("missing_rows.bmp", "unsupportedOrCorrupt")
    write("rle.bmp", bmp(4, 4, 8, [bytes(4)] * 4, palette=bytes(1024), compression=1))
    refuse("rle.bmp", "unsupportedOrCorrupt")
    # Formats libvips could read but must not: a drawing, a matrix, a portable map.
    write("drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>\n')
    refuse("drawing.svg", "unsupportedOrCorrupt")
    write("map.ppm", b"P6 2 2 255\n" + bytes(12))
    refuse("map.ppm", "unsupportedOrCorrupt")


def resizes():
    sources = {"scene": scene(240, 180), "noise": noise(64, 48, 3), "tiny": waves(5, 3), "line": waves(37, 1)}
    pairs = {
        "scene": [(224, 224), (96, 61), (17, 180), (240, 31), (301, 97), (1, 1)],
        "noise": [(32, 32), (65, 47), (128, 31), (13, 71), (64, 20), (60, 36), (58, 36)],
        "tiny": [(31, 40), (1, 9), (9, 1)],
        "line": [(12, 6)],
    }
    for name, array in sources.items():
        file = f"resize_{name}.png"
        Image.fromarray(array).save(path(file), optimize=True)
        for width, height in pairs[name]:
            result = f"resize_{name}_{width}x{height}.png"
            Image.fromarray(array).resize((width, height), Image.Resampling.BICUBIC).save(
                os.path.join(EXPECTED, result), optimize=True)
            manifest["resize"].append({"source": file, "width": width, "height": height, "expected": result})


if __name__ == "__main__":
    for folder in (FILES, EXPECTED):
        os.makedirs(folder, exist_ok=True)
        for name in os.listdir(folder):
            os.remove(os.path.join(folder, name))
    pngs()
    jpegs()
    others()
    bmps()
    bads()
    resizes()
    with open(os.path.join(HERE, "manifest.json"), "w") as f:
        json.dump(manifest, f, indent=1)
        f.write("\n")
    total = sum(os.path.getsize(os.path.join(d, f)) for d, _, fs in os.walk(HERE) for f in fs)
    print(len(manifest["decode"]), "decoded,", len(manifest["bad"]), "refused,", len(manifest["resize"]), "resized,", total, "bytes")
