#!/usr/bin/env python3
"""Unpacks the C++ part of a PyPI torch wheel: torch/include, torch/lib and torch/share.

    unpack_libtorch.py --has-cuda TORCH.whl                 exit 0 when the wheel was built for CUDA, 1 when not
    unpack_libtorch.py TORCH.whl DESTINATION [OTHER.whl …]  writes DESTINATION, whole or not at all

Of a wheel built for CUDA the CPU part is kept: libtorch_cuda and its kin need more than two gigabytes of other wheels.
Two things stand in the way, and both are mended here. libtorch.so, which holds no code and only names the libraries to
load, names libtorch_cuda.so: it is linked anew, to name libtorch_cpu.so and libc10.so. libtorch_cpu.so itself is bound
to libcudart and libcupti (its profiler): the two come from the OTHER wheels, and lie beside it.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PARTS = ("torch/include/", "torch/lib/", "torch/share/")
CUDA = re.compile(r"torch/lib/lib[^/]*(?:cuda|nvshmem)[^/]*$")
PYTHON = re.compile(r"torch/lib/lib(?:torch_python|shm|shm_windows)\b")


def fail(code, message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def has_cuda(archive):
    return any(CUDA.match(name) for name in archive.namelist())


def copy(archive, member, path):
    """One member to a file; zipfile compares its CRC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)


def unpack_torch(archive, folder):
    for name in archive.namelist():
        if not name.startswith(PARTS) or name.endswith("/") or CUDA.match(name) or PYTHON.match(name):
            continue
        if ".." in name.split("/"):
            fail(65, f"{archive.filename}: member {name} points outside")
        copy(archive, name, folder / name.removeprefix("torch/"))


def relink(library):
    """libtorch.so without CUDA: an empty library that names the two others."""
    compiler = next((path for name in ("clang", "cc", "gcc") if (path := shutil.which(name))), None)
    if compiler is None:
        fail(69, "no C compiler (clang, cc or gcc) found to link libtorch.so anew")
    library.unlink()
    command = [compiler, "-shared", "-x", "c", os.devnull, "-x", "none", "-o", str(library), "-Wl,-soname,libtorch.so",
               "-Wl,-rpath,$ORIGIN", "-Wl,--allow-shlib-undefined", "-Wl,--no-as-needed",
               str(library.with_name("libtorch_cpu.so")), str(library.with_name("libc10.so"))]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        fail(69, f"libtorch.so could not be linked anew: {(result.stderr.strip().splitlines() or ['no message'])[0]}")


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--has-cuda":
        try:
            with zipfile.ZipFile(arguments[1]) as archive:
                return 0 if has_cuda(archive) else 1
        except (zipfile.BadZipFile, OSError) as error:
            return fail(65, f"{arguments[1]}: no whole wheel ({error}); remove it and run again")
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 64
    wheels, destination = [Path(arguments[0]), *map(Path, arguments[2:])], Path(arguments[1])
    # On the same file system, for the rename; a name that .gitignore covers.
    temporary = Path(tempfile.mkdtemp(prefix=".build-libtorch-", dir=destination.parent))
    try:
        folder = temporary / "libtorch"
        with zipfile.ZipFile(wheels[0]) as archive:
            version = re.match(r"torch-([^-]+)-", wheels[0].name)
            unpack_torch(archive, folder)
            cuda = has_cuda(archive)
        for wheel in wheels[1:]:
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if re.search(r"/lib(?:cudart|cupti)\.so\.\d+$", name):
                        copy(archive, name, folder / "lib" / name.rsplit("/", 1)[1])
        if cuda and sys.platform == "linux":
            relink(folder / "lib/libtorch.so")
        lines = [f"version {version[1] if version else 'unknown'}"]
        lines += [f"sha256 {sha256(wheel)}  {wheel.name}" for wheel in wheels]
        (folder / "setup.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if destination.exists():
            os.replace(destination, temporary / "old")
        os.replace(folder, destination)
    except (zipfile.BadZipFile, EOFError) as error:
        return fail(65, f"{wheels[0]}: no whole wheel ({error}); remove it and run again")
    except OSError as error:
        return fail(73, f"{error.filename or destination}: {error.strerror or error}")
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    print("\n".join("  " + line for line in lines), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
