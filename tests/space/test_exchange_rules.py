"""Rules between the keys of exchanges."""

from typing import Any

import pytest
from space_makers import assert_refused, make_settings


@pytest.mark.parametrize(
    ("text", "key", "parts"),
    [
        ("{graft: {}, papa: {}}", "papa", ("graft and papa",)),
        ("{graft: {}, exchange: 'python:mine.Rule'}", "exchange", ("graft and exchange",)),
        ("{papa: {}, population: {num_peers: 1}}", "population.num_peers", ("got 1", "papa")),
        ("{exchange: mine.Rule}", "exchange", ("mine.Rule",)),
        ("{population: {exchange_every: 10}}", "population.exchange_every", ("got 10",)),
        ("{papa: {}, population: {exchange_every: 0}}", "population.exchange_every", ("got 0",)),
        ("{papa: {}, population: {exchange_every: 9, mode: async}}", "population.mode", ("exchange_every",)),
        ("{papa: {}, population: {exchange_every: 9, topology: best}}", "population.topology", ("got", "9")),
        ("{papa: {}, population: {exchange_every: 9, min_peers: 1}}", "population.min_peers", ("exchange_every",)),
        ("{papa: {}, population: {exchange_every: 9, peers_per_actor: 2}}", "population.peers_per_actor", ("got 2",)),
        ("{graft: {burn_in_rounds: 1}, population: {exchange_every: 9}}", "graft.burn_in_rounds", ("got 1",)),
        ("{graft: {compat: released_code}, population: {exchange_every: 9}}", "graft.compat", ("none",)),
        ("{graft: {criterion: entropi}}", "graft.criterion", ("entropi", "entropy")),
        ("{graft: {alpha: 1.5}}", "graft.alpha", ("1.5",)),
        ("{papa: {rate: 0}}", "papa.rate", ("0",)),
        ("{align: {}}", "align", ("got none", "graft")),
        ("{graft: {source: noise}, align: {}}", "align", ("got none", "set graft.source: external")),
        ("{wash: {}, align: {}}", "align", ("wash",)),
        ("{sparta: {}, align: {}}", "align", ("sparta",)),
        ("{outer: {}, align: {}}", "align", ("outer",)),
        ("{graft: {}, align: true}", "align", ("got true",)),
        ("{graft: {}, align: {rounds: 3}}", "align.rounds", ("rounds",)),
    ],
)
def test_exchange_is_refused_in_one_line(text: str, key: str, parts: tuple[str, ...]) -> None:
    assert_refused(text, key, *parts)


@pytest.mark.parametrize("rule", [{"graft": {}}, {"papa": {}}, {"exchange": "python:user_parts.Pull"}])
@pytest.mark.parametrize("population", [{}, {"exchange_every": 9}, {"mode": "async"}])
def test_alignment_stands_beside_rules_that_take_weights(rule: dict[str, Any], population: dict[str, Any]) -> None:
    assert make_settings(rule, align={}, population=population).align is not None
    assert make_settings(rule, population=population).align is None
