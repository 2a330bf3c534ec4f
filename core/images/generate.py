"""Compiles our .proto files to Python: `python -m core.images.generate`.

Part of the build, not of the product: needs grpcio-tools, does nothing when every output is newer than its inputs.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Every pb package, and where its .proto files are. The package is part of the file name protoc sees, hence the mapping.
SOURCES = {"core/images/pb": "core/images", "migrate/pb": "migrate"}


def generate(root: Path = ROOT) -> list[str]:
    """Compile what is out of date below `root`; returns the packages that were compiled."""
    return [package for package, source in SOURCES.items() if _generate_package(root, package, source)]


def _generate_package(root: Path, package: str, source: str) -> bool:
    protos = sorted((root / source).glob("*.proto"))
    _remove_orphans(root / package, {proto.stem for proto in protos})
    if not protos or _is_current(root / package, protos):
        return False
    (root / package).mkdir(exist_ok=True)
    (root / package / "__init__.py").touch()
    _compile(root, [f"{package}/{proto.name}" for proto in protos])
    return True


def _outputs(directory: Path, stem: str) -> list[Path]:
    return [directory / f"{stem}_pb2.py", directory / f"{stem}_pb2.pyi"]


def _is_current(directory: Path, protos: list[Path]) -> bool:
    """True when the oldest output is newer than the newest input, this file included."""
    outputs = [output for proto in protos for output in _outputs(directory, proto.stem)]
    if not all(output.exists() for output in outputs):
        return False
    newest_input = max(path.stat().st_mtime_ns for path in [*protos, Path(__file__)])
    return min(path.stat().st_mtime_ns for path in outputs) > newest_input


def _remove_orphans(directory: Path, stems: set[str]) -> None:
    """A module left from a .proto that is gone would still be importable."""
    for output in directory.glob("*_pb2.py*"):
        if output.name.partition("_pb2.py")[0] not in stems:
            output.unlink()


def _compile(root: Path, names: list[str]) -> None:
    from grpc_tools import protoc  # type: ignore[import-untyped]  # imported here: a build dependency

    includes = [f"-I{package}={root / source}" for package, source in SOURCES.items()]
    if protoc.main(["protoc", *includes, f"--python_out={root}", f"--pyi_out={root}", *names]) != 0:
        sys.exit(f"{names[0]}: protoc failed, see above")
    for name in names:
        _excuse_stub(root / f"{name.removesuffix('.proto')}_pb2.pyi")


def _excuse_stub(stub: Path) -> None:
    """Generated stubs name Mapping without arguments, which mypy --strict does not let pass."""
    stub.write_text('# mypy: disable-error-code="type-arg"\n' + stub.read_text())


if __name__ == "__main__":
    for compiled in generate():
        print(f"compiled {compiled}")
