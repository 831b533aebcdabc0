"""RePr, pruning and scions on transformers and networks with GroupNorm; networks without filters are refused."""

from typing import Any

import pytest
import torch
from network_makers import same_bits
from safetensors.torch import load as tensors_from_bytes
from space_makers import make_settings
from torch import Tensor

from graftpop.errors import ModelError
from graftpop.peer.peer import Peer
from graftpop.settings import Settings

RANKED = {
    "Vit": ["patch_embed", "attn.qkv.q", "attn.qkv.k", "attn.qkv.v", "attn.proj", "fc1", "fc2"],
    "TwoDimensions": ["stem", "depthwise", "grouped", "plain"],
}
"""All but the output layer and the tables."""

REPR: dict[str, Any] = {"repr": {"S1": 1, "S2": 1, "N": 1, "rate": 0.6, "criterion": "random", "skip_first": False}}
PRUNING: dict[str, Any] = {"pruning": {"preset": "hard", "rate": 0.5, "remove": False}}
NOISE: dict[str, Any] = {"graft": {"source": "noise"}}
NONE = torch.empty(0, dtype=torch.int64)


def settings_of(name: str, *methods: dict[str, Any], epochs: int = 3) -> Settings:
    training = {"training": {"epochs": epochs, "batch_size": 90}}
    return make_settings({"model": {"name": f"python:site_networks.{name}"}}, training, *methods)


def saved(peer: Peer) -> dict[str, Tensor]:
    return tensors_from_bytes(peer.save())


def zero_rows(weight: Tensor) -> list[int]:
    return torch.nonzero(~weight.reshape(len(weight), -1).any(1)).flatten().tolist()


@pytest.mark.parametrize("name", RANKED)
def test_repr_drops_and_revives_units_of_ranked_sites_only(name: str) -> None:
    settings = settings_of(name, REPR)
    peer, resumed = Peer(settings, 0), Peer(settings, 0)
    peer.train(2)
    state = saved(peer)
    dropped = {key.split("/")[1]: tensor for key, tensor in state.items() if key.endswith("/dropped")}
    assert set(dropped) <= set(RANKED[name])
    assert len(dropped) > 2
    if name == "Vit":
        of_heads = {8 * place: dropped.get(f"attn.qkv.{part}", NONE).tolist() for place, part in enumerate("qkv")}
        rows = [start + 4 * head + row for start, heads in of_heads.items() for head in heads for row in range(4)]
        assert zero_rows(state["network/attn.qkv.weight"]) == sorted(rows) != []
        assert zero_rows(state["network/fc1.weight"]) == dropped.get("fc1", NONE).tolist()
    else:
        assert all(zero_rows(state[f"network/{site}.weight"]) == dropped[site].tolist() for site in dropped)
    resumed.load(peer.save())
    for each in (peer, resumed):
        each.train(1)
    after = saved(peer)
    assert same_bits(after, saved(resumed))
    assert not [key for key in after if key.startswith("repr/")]
    assert not [key for key in after if key.endswith("weight") and key.startswith("network/") and zero_rows(after[key])]


@pytest.mark.parametrize("name", RANKED)
def test_pruning_drops_its_share_of_every_ranked_site(name: str) -> None:
    settings = settings_of(name, PRUNING, epochs=2)
    peer, plain = Peer(settings, 0), Peer(settings_of(name, epochs=2), 0)
    for each in (peer, plain):
        each.train(2)
    state = saved(peer)
    dropped = {key.split("/")[1]: len(tensor) for key, tensor in state.items() if key.startswith("pruning/")}
    num_units = {"attn.qkv.q": 2, "attn.qkv.k": 2, "attn.qkv.v": 2, "fc1": 12, "grouped": 6, "plain": 4}
    assert dropped == {site: num_units.get(site, 8) // 2 for site in RANKED[name]}
    left_alone = ["head.weight", "pos_embed", "segments.weight"] if name == "Vit" else ["head.weight"]
    for key in left_alone:
        assert not zero_rows(state[f"network/{key}"].squeeze(0)), key
    if name == "Vit":
        assert len(zero_rows(state["network/attn.qkv.weight"])) == 12
    assert not [key for key, tensor in saved(plain).items() if key.endswith(".weight") and zero_rows(tensor)]


@pytest.mark.parametrize("source", ["internal", "noise"])
@pytest.mark.parametrize("name", RANKED)
def test_scions_reach_the_invalid_units_of_ranked_sites(name: str, source: str) -> None:
    """With a threshold above every norm all ranked units are invalid; noise then changes them all."""
    graft = {"graft": {"source": source, "threshold": 1e9}}
    with_scions, plain = (Peer(settings_of(name, method, epochs=2), 0) for method in (graft, {}))
    for peer in (with_scions, plain):
        peer.train(2)
    assert with_scions.predict("val")[0].shape == plain.predict("val")[0].shape
    assert same_bits(saved(with_scions), saved(plain)) == (source == "internal")  # no valid filter to copy


@pytest.mark.parametrize("method", [REPR, PRUNING, NOISE], ids=["repr", "pruning", "noise"])
def test_network_of_tables_is_refused_in_one_line(method: dict[str, Any]) -> None:
    (key,) = method
    with pytest.raises(ModelError) as caught:
        Peer(settings_of("Tables", method), 0)
    message = str(caught.value)
    assert message.startswith("model.name: 'python:site_networks.Tables' ")
    named = "graft.source" if key == "graft" else key
    assert [part for part in ("places, shades", f"for {named}", f"remove {named}") if part not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize("method", [REPR, PRUNING], ids=["repr", "pruning"])
def test_parametrized_weight_is_refused_in_one_line(method: dict[str, Any]) -> None:
    (key,) = method
    with pytest.raises(ModelError) as caught:
        Peer(settings_of("Parametrized", method), 0)
    message = str(caught.value)
    assert message.startswith("model.name: 'python:site_networks.Parametrized' ")
    assert [part for part in ("'conv'", f"remove {key}") if part not in message] == []
    assert "\n" not in message


def test_tables_are_grafted() -> None:
    settings = settings_of("Tables", {"graft": {"alpha": 0.0}})
    one, other = Peer(settings, 0), Peer(settings, 1)
    columns = one.exchange(other.publish())["columns"]
    assert columns is not None
    assert columns["site"] == ["places", "shades"]
    assert torch.equal(saved(one)["network/shades.weight"], saved(other)["network/shades.weight"])
