"""Builds core.native._kernel (cffi, API mode), the stem and the init from the sources beside it.

Owns how the native parts are compiled; run as `python -m core.native.build`. Skips what is up to date.
"""

import hashlib
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import cffi

HERE = Path(__file__).parent
HEADERS = (
    "abi.h",
    "kernel.h",
    "memory.h",
    "pages.h",
    "borrow.h",
    "collect.h",
    "sharing.h",
    "mqueue.h",
    "facts.h",
    "descriptors.h",
    "sockets.h",
    "cores.h",
    "scans.h",
)
SOURCES = (
    "kernel.c",
    "memory.c",
    "pages.c",
    "borrow.c",
    "frame.c",
    "collect.c",
    "sharing.c",
    "mqueue.c",
    "descriptors.c",
    "facts.c",
    "sockets.c",
    "cores.c",
    "scans.c",
    "parts.c",
)
BLOBS = ("blob.S",)
EXECUTABLES = ("stem", "init")
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-missing-field-initializers")
STEM_FLAGS = ("-nostdlib", "-static", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-s")


def declarations() -> str:
    """The headers as cffi reads them: numeric #defines kept, other preprocessor lines dropped."""
    text = "\n".join((HERE / name).read_text() for name in HEADERS)
    text = re.sub(r"(?m)^#define (\w+) (\w+)(?:\s*/\*.*)?$", _declared_constant, text)
    text = re.sub(r"(?m)^#(?!define \w+ (?:\d|\.\.\.)).*$", "", text)
    return text.replace("MG_AFFINITY_MAX]", "1024]")


def _declared_constant(match: re.Match[str]) -> str:
    name, value = match.groups()
    return f"#define {name} ..." if re.fullmatch(r"0x[0-9a-fA-F]+U?L*|\d+U?L*", value) else ""


def source_hash() -> str:
    """Changes when any source, this file or the interpreter changes."""
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(HERE.glob("*.[chS]")) + [Path(__file__)]:
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def build_executables() -> None:
    """Assemble the static executables: what restored tasks begin as, and PID 1 of a namespace of their own."""
    for name in EXECUTABLES:
        subprocess.run(["gcc", *STEM_FLAGS, "-o", str(HERE / name), str(HERE / f"{name}.S")], check=True)


def build_module() -> None:
    """Compile the cffi module in place."""
    objects = []
    build_dir = HERE / "build"
    build_dir.mkdir(exist_ok=True)
    for blob in BLOBS:
        target = build_dir / (blob + ".o")
        subprocess.run(["gcc", "-c", "-fPIC", "-o", str(target), str(HERE / blob)], check=True)
        objects.append(str(target))
    builder = cffi.FFI()
    builder.cdef(declarations())
    builder.set_source(
        "core.native._kernel",
        "\n".join(f'#include "{name}"' for name in HEADERS),
        sources=[str(HERE / name) for name in SOURCES],
        include_dirs=[str(HERE)],
        extra_compile_args=list(FLAGS),
        extra_objects=objects,
    )
    built = builder.compile(tmpdir=str(build_dir), verbose=False)
    final = HERE / ("_kernel" + sysconfig.get_config_var("EXT_SUFFIX"))
    Path(built).replace(final)


def main() -> None:
    """Build unless the stamp says that nothing has changed."""
    stamp = HERE / "build" / "stamp"
    wanted = source_hash()
    if stamp.exists() and stamp.read_text() == wanted and list(HERE.glob("_kernel*.so")):
        return
    build_executables()
    build_module()
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
