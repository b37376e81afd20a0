"""A lab shares its features by the Hub, another one trains from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.conftest import Tiny
from tests.support.hub_server import HubServer

ROOT = "hf://datasets/lab/features"


@pytest.mark.slow
def test_one_lab_pushes_and_another_one_trains(  # noqa: PLR0917 (fixtures)
    tiny: Tiny,
    lab: Path,
    call: Call,
    hub: HubServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "no such dataset" in call(f"store push {tiny.stores['motion']} {ROOT}", code=1).stderr
    for own in tiny.stores.values():
        call(f"store push {own} {ROOT} --create --private")
    assert hub.repositories["lab/features"].private
    commit = hub.repositories["lab/features"].branches["main"]
    card = hub.repositories["lab/features"].files["README.md"].decode()
    assert "language:\n- de\n" in card
    assert card.count("spamo-cache begin") == 2
    name = tiny.stores["spatial"].name
    listed = json.loads(call(f"store ls {ROOT} --json").stdout)
    assert [entry["damaged"] for entry in listed] == [None, None]
    store = f"{ROOT}@{commit}/frames/{name}"
    assert {entry["path"] for entry in listed} >= {store}
    assert "sound" in call(f"store verify {store}").stdout
    assert "no difference" in call(f"store diff {store} {tiny.stores['spatial']}").stdout
    for pair in (f"{store} {tiny.stores['spatial']}", f"{tiny.stores['spatial']} {store}"):
        compared = json.loads(call(f"store compare {pair} --json").stdout)
        assert compared["counts"] == {"equal": 10, "near": 0, "different": 0}
    assert "remote root" in call(f"store rm --yes {store}", code=2).stderr
    monkeypatch.setenv("SPAMO_CACHE", f"{tmp_path}/own:{ROOT}")
    call(f"store pull frames/spatial --from {ROOT} --split dev")
    assert f"pulled from  {store}" in call(f"store info {tmp_path}/own/frames/{name}").stdout
    call("train pipeline.yaml --manifest manifest.csv --device cpu --set log=[] -o run")
    record = json.loads((lab / "run" / "run.json").read_text(encoding="utf-8"))
    assert record["origins"]["spatial"] == store
    assert record["origins"].keys() == {"spatial", "motion"}
    assert f"{tmp_path}/own" in record["places"]["motion"]
    hub.repositories.clear()
    call("evaluate run --device cpu")


def test_only_who_creates_can_make_it_private(lab: Path, call: Call) -> None:
    refused = call("store push frames/spatial elsewhere --private", code=2)
    assert "--create" in refused.stderr
