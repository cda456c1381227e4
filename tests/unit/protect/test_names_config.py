from __future__ import annotations

import pytest

from heimdall_server.domain.errors import ConfigurationError
from heimdall_server.protect.names_config import NamesConfig
from heimdall_server.protect.names_model import NamesModel
from heimdall_server.wiring import names as wiring


def test_second_pass_is_made_where_it_is_wanted_and_a_missing_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NamesModel, "available", staticmethod(lambda: True))
    assert wiring.names_pass(NamesConfig()) is None
    assert wiring.names_pass(NamesConfig("dumps")) is not None
    assert wiring.names_problem(NamesConfig("dumps")) == ""
    monkeypatch.setattr(NamesModel, "available", staticmethod(lambda: False))
    assert wiring.names_pass(NamesConfig("dumps")) is None
    assert "heimdall-mesh[names]" in wiring.names_problem(NamesConfig("dumps"))
    assert wiring.names_problem(NamesConfig()) == ""
    with pytest.raises(ConfigurationError, match="texts_per_s"):
        NamesConfig(texts_per_s=-1)
