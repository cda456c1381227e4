"""What is generated is what the contracts say, and the packages' bounds are the generator's."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "gen" / "python" / "heimdall"


def lower_bound(name: str) -> Version:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        requirement = Requirement(text)
        if requirement.name == name:
            (bound,) = (s.version for s in requirement.specifier if s.operator == ">=")
            return Version(bound)
    raise AssertionError(name)


@pytest.mark.parametrize(("package", "pattern", "files"), [
    ("grpcio", r"GRPC_GENERATED_VERSION = '([\d.]+)'", "*_pb2_grpc.py"),
    ("protobuf", r"# Protobuf Python Version: ([\d.]+)", "*_pb2.py"),
])  # fmt: skip
def test_lower_bounds_are_those_of_the_generator(package: str, pattern: str, files: str) -> None:
    found = {Version(match) for path in GENERATED.rglob(files) for match in re.findall(pattern, path.read_text())}
    assert found == {lower_bound(package)}
    assert Version(metadata.version(package)) >= lower_bound(package)


def test_every_contract_is_generated_and_typed() -> None:
    for proto in (ROOT / "proto" / "heimdall").rglob("*.proto"):
        stem = GENERATED.parent / proto.relative_to(ROOT / "proto").with_suffix("")
        assert stem.with_name(f"{stem.name}_pb2.py").is_file()
        assert stem.with_name(f"{stem.name}_pb2.pyi").is_file()
    assert (GENERATED / "py.typed").is_file()
