"""Measure criteria, allocations and selection of units by weights alone, in copies of the network's weights.

    python benchmarks/criteria.py [--model resnet110] [--turns 9]

Each call works on every site of the network, on one core, in alternating turns with a copy of all its weights.
Allocations and selection keep half of the units. Criteria that use images cost up to an epoch, see
docs/methods/criteria.md.
"""

import argparse
import json
import os
from collections.abc import Callable
from statistics import median

import torch
from kernels import network_of, timed
from turns import in_turns, print_table

from graftpop.ops.allocation import cross_layer, global_ranking
from graftpop.ops.criteria import CRITERIA, Filters
from graftpop.ops.selection import k_reciprocal
from graftpop.run.provenance import run_provenance
from graftpop.sites import find_sites
from graftpop.training.flat_state import FlatState

WANTED = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet110")
    parser.add_argument("--turns", type=int, default=9)
    given = parser.parse_args()
    torch.set_num_threads(1)
    ways = choices(given.model)
    seconds = in_turns(*(timed(way, torch.device("cpu")) for way in ways.values()), num_turns=given.turns)
    copy_s = seconds[0]
    copies = {
        name: [one / of_copy for one, of_copy in zip(own_s, copy_s, strict=True)]
        for name, own_s in zip(ways, seconds, strict=True)
    }
    rows = [
        [name, f"{1000 * median(own_s):.2f}", *(f"{pick(copies[name]):.1f}" for pick in (median, min, max))]
        for name, own_s in zip(ways, seconds, strict=True)
    ]
    print_table(["choice", "ms", "copies", "from", "to"], rows)
    figures = {name: round(median(found), 2) for name, found in copies.items()}
    provenance = run_provenance([], 0)
    print(
        json.dumps(
            {
                "name": "criteria",
                "model": given.model,
                "unit": "copies of the weights",
                "wanted": WANTED,
                "turns": given.turns,
                "load_average": os.getloadavg()[0],
                **{key: provenance[key] for key in ("hardware", "git", "versions")},
                "figures": figures,
            }
        )
    )


def choices(model: str) -> dict[str, Callable[[], object]]:
    """Return the measured calls by name, a copy of the weights first."""
    network = network_of(model, 0)
    state = FlatState(network)
    sites = find_sites(network, (3, 32, 32), model)
    weights = [network.get_parameter(f"{site.layer}.weight").detach() for site in sites]
    generator = torch.Generator().manual_seed(0)
    found = [Filters(weight, torch.rand(len(weight)), torch.randn(len(weight))) for weight in weights]
    scores = [weight.flatten(1).norm(dim=1) for weight in weights]
    rows, flops, least = [weight.flatten(1) for weight in weights], [1.0] * len(weights), [1] * len(weights)

    def criterion(name: str) -> Callable[[], object]:
        return lambda: [CRITERIA[name](filters, generator) for filters in found]

    return {
        "copy of the weights": state.buffer.clone,
        **{name: criterion(name) for name in CRITERIA},
        "allocation: global": lambda: global_ranking(scores, 0.5, least),
        "allocation: cross_layer": lambda: cross_layer(rows, flops, 1.0, 0.5, least),
        "selection: k_reciprocal": lambda: [k_reciprocal(weight, len(weight) // 2) for weight in weights],
    }


if __name__ == "__main__":
    main()
