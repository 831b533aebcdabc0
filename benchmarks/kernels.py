"""Measure one peer's computation in an exchange (entropies, alpha, blend) against the plain recipe.

    python benchmarks/kernels.py [--models resnet110 ...] [--turns 9]

Both blend a donor into a network with the same weights, on one core and, if there is one, on the GPU. The plain recipe
computes the entropies of receiver and donor. graftpop computes the receiver's only: a snapshot contains the donor's.
The entropies' part is shown too, and for comparison the time of `torch.histc` for the same histograms.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from plain import graft
from turns import Case, in_turns, report

from graftpop.exchange.grafting import Grafting, site_measures
from graftpop.exchange.rule import ExchangeContext
from graftpop.models import build
from graftpop.seeds import seeded
from graftpop.settings import GraftSettings, Settings
from graftpop.sites import find_sites
from graftpop.training.flat_state import FlatState

MODELS = ("resnet110", "mobilenetv2", "torchvision:resnet50")
NUM_TURNS = 9
NUM_BINS = 10
WANTED = {"cpu": 5.0, "cuda": 20.0}
REPEATS = {"cpu": 5, "cuda": 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--turns", type=int, default=NUM_TURNS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    kinds = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    for kind in kinds:
        cases = [measured(model, torch.device(kind), given.turns) for model in given.models]
        report(f"kernels-{kind}", "times as fast as the plain recipe", WANTED[kind], cases)


def measured(model: str, device: torch.device, num_turns: int) -> Case:
    receiver, donor = (network_of(model, seed).to(device) for seed in (0, 1))
    plain_receiver = network_of(model, 0).to(device)
    side = 224 if model.startswith("torchvision:") else 32
    sites = find_sites(receiver, (3, side, side), model)
    settings = Settings(graft=GraftSettings())
    states = [FlatState(network) for network in (receiver, donor)]
    measures, of_donor = (site_measures(state, sites, settings.graft) for state in states)
    ours = Grafting(ExchangeContext(0, states[0], sites, measures, settings))
    theirs, their_entropies = states[1].buffer, of_donor.entropies
    donor_state = {name: tensor.clone().contiguous() for name, tensor in donor.state_dict().items()}

    def graft_ours() -> None:
        measures.update()
        ours.graft_(ours.alpha(their_entropies, theirs), theirs)

    buffer = states[0].buffer
    weights = [weight.flatten() for weight in measures.weights_in(buffer)]
    ours_s, plain_s, entropies_s, histc_s = in_turns(
        timed(graft_ours, device),
        timed(lambda: graft(plain_receiver, donor_state), device),
        timed(lambda: measures.entropies_in(buffer), device),
        timed(lambda: [torch.histc(weight, NUM_BINS) for weight in weights], device),
        num_turns=num_turns,
    )
    num_weights = sum(tensor.numel() for tensor in donor_state.values())
    return Case(
        f"{model}, {device.type}",
        ours_s,
        plain_s,
        {
            "weights": num_weights,
            "graftpop, ms": 1000 * median(ours_s),
            "plain, ms": 1000 * median(plain_s),
            "entropies, ms": 1000 * median(entropies_s),
            "histc, ms": 1000 * median(histc_s),
        },
    )


def network_of(model: str, seed: int) -> torch.nn.Module:
    with seeded(seed, torch.device("cpu")):
        return build(model, 10)


def timed(act: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """Return a function that repeats `act` and returns the mean seconds of one call."""
    repeats = REPEATS[device.type]

    def run() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            act()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - start) / repeats

    return run


if __name__ == "__main__":
    main()
