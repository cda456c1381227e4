"""What `make clean` may delete outside the data folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture
def local(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(DEPLOY))
    spec = importlib.util.spec_from_file_location("local_under_test", DEPLOY / "local.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "local_under_test", module)
    spec.loader.exec_module(module)
    return module


def test_only_a_place_that_names_the_data_folder_is_the_data_folders(local: ModuleType, tmp_path: Path) -> None:
    data, place = tmp_path / "data", tmp_path / "place"
    (data / "postgres").mkdir(parents=True)
    place.mkdir()
    assert local.postgres_place(data) is None
    (data / "postgres" / "place").write_text(f"{place}\n")
    assert local.postgres_place(data) is None
    (place / "data_dir").write_text(f"{tmp_path / 'other'}\n")
    assert local.postgres_place(data) is None
    (place / "data_dir").write_text(f"{data.resolve()}\n")
    assert local.postgres_place(data) == place
