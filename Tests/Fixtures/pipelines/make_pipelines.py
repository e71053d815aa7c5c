"""Writes processor.safetensors: pixels as the processors of DINOv2 and CLIP give them, by Pillow and NumPy alone.

Pillow 13, NumPy 2. Run it in this folder.
"""

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

CONSTANTS = {
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    "clip": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
}
SIZE = 14

random = np.random.default_rng(7)
tensors = {}
# Wide and shrunk, small and enlarged, and of the size already.
for name, (height, width) in {"wide": (23, 61), "small": (5, 3), "same": (SIZE, SIZE)}.items():
    picture = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
    tensors[f"picture.{name}"] = picture
    resized = np.asarray(Image.fromarray(picture).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    for constants, (mean, deviation) in CONSTANTS.items():
        values = (resized.astype(np.float64) / 255 - mean) / deviation
        tensors[f"{constants}.{name}"] = np.ascontiguousarray(values.transpose(2, 0, 1)).astype(np.float32)
save_file(tensors, "processor.safetensors")
