"""Measure everything that depends on a GPU, in at most nine minutes, into one JSON file.

    python benchmarks/gpu.py [--device cuda] [--out gpu.json] [--quick] [--parts correctness waits ...]

Each part runs in a process of its own under a time limit, and its rows are written as they come. So a part that fails,
or a run that is cut short, leaves the other rows. The parts:

- correctness: results on the device against the CPU's, each with its tolerance; resuming to the bit
- waits: how often the host waits for the GPU in a training step and in an exchange
- training: images/s of one peer against the plain recipe and the competent user's loop, in alternating turns
- exchange: milliseconds of an exchange between peers on one GPU, through the memory of the host
- kernels: entropy, alpha and blend, against the plain recipe
- peers: images/s of 1 to 8 peers that take turns on one GPU
- digits, cifar10: accuracy of small populations after a few epochs
- actors: images/s of 1 to 8 peers in Ray actors on one GPU, if Ray is installed

Images are CIFAR-10's, from GRAFTPOP_DATA. If they are not there, they are random ones, and cifar10 is left out.
`--quick` tries the parts on small inputs, without cifar10 and actors; with `--device cpu` it needs no GPU.
"""

import argparse
import importlib.util
import io
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from competent import CompetentPeers
from kernels import measured as kernels_measured
from kernels import network_of
from plain import PlainPeers
from torch import Tensor, nn
from turns import in_turns

from graftpop.data import load_splits
from graftpop.data.cifar import is_to_download
from graftpop.errors import describe_exception
from graftpop.exchange.build import make_rule
from graftpop.exchange.grafting import site_measures
from graftpop.exchange.rule import ExchangeContext
from graftpop.exchange.snapshots import take_snapshot
from graftpop.ops.alpha import adaptive_alpha
from graftpop.ops.entropy import filter_entropies, layer_entropies
from graftpop.peer.peer import Peer
from graftpop.population import LocalGroup, Population
from graftpop.population.group import ResultMode
from graftpop.run.provenance import run_provenance
from graftpop.settings import DataSettings, Settings
from graftpop.sites import find_sites
from graftpop.space import parse_space
from graftpop.tasks.classification import Classification
from graftpop.training.cuda import set_up_cuda
from graftpop.training.flat_state import FlatState
from graftpop.training.learner import Learner

LIMITS_S = {
    "correctness": 60.0,
    "waits": 30.0,
    "training": 180.0,
    "exchange": 30.0,
    "kernels": 40.0,
    "peers": 60.0,
    "digits": 20.0,
    "cifar10": 50.0,
    "actors": 40.0,
}
"""Seconds of each part, in the order in which they run; 510 together."""

GRACE_S = 10.0
MODELS = ("resnet20", "resnet32", "torchvision:resnet18", "mobilenetv2")
PEERS = (1, 2, 4, 8)
BATCH = 128
CPU = torch.device("cpu")

Row = dict[str, Any]
Rows = Iterator[Row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU, and torch finds none; try --device cpu --quick")
    if given.part is None:
        run_parts(given)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(124))  # ends the processes of a part as well
    torch.set_num_threads(1 if device.type == "cpu" else min(4, len(os.sched_getaffinity(0))))
    for row in PARTS[given.part](device, given.quick):
        print(json.dumps(row), flush=True)


# --- the parts in their processes ---


def run_parts(given: argparse.Namespace) -> None:
    """Run the parts one after the other, and rewrite the file after every row."""
    environment = dict(os.environ)
    if given.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""  # the plain recipe takes a GPU wherever there is one
    with tempfile.TemporaryDirectory() as folder:
        has_cifar = not is_to_download(DataSettings(name="cifar10"))
        if not has_cifar:
            write_random_images(Path(folder))
            environment["GRAFTPOP_DATA"] = folder
        result: Row = {
            "name": "gpu",
            "device": given.device,
            "quick": given.quick,
            "images": "CIFAR-10" if has_cifar else "random",
            **{key: run_provenance([], 0)[key] for key in ("started", "hardware", "git", "versions")},
            "parts": {},
        }
        for name in given.parts:
            print(f"{name}:", flush=True)
            part: Row = {"status": "running", "seconds": 0.0, "rows": []}
            result["parts"][name] = part
            if reason := reason_to_leave_out(name, given, has_cifar):
                part["status"] = f"left out: {reason}"
                continue
            start = time.perf_counter()
            for row in rows_of_part(name, given, environment, part):
                part["rows"].append(row)
                part["seconds"] = round(time.perf_counter() - start, 1)
                print("  " + ", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
                write(given.out, result)
            part["seconds"] = round(time.perf_counter() - start, 1)
            print(f"  {part['status']} in {part['seconds']} s", flush=True)
            write(given.out, result)


def reason_to_leave_out(name: str, given: argparse.Namespace, has_cifar: bool) -> str:
    """Return why a part cannot run or is too slow; empty if it runs."""
    reasons: dict[str, str] = {
        "waits": "a CPU has no waits" * (given.device == "cpu"),
        "cifar10": "--quick" if given.quick else "no CIFAR-10" * (not has_cifar),
        "actors": "--quick" if given.quick else "Ray is not installed" * (importlib.util.find_spec("ray") is None),
    }
    return reasons.get(name, "")


def rows_of_part(name: str, given: argparse.Namespace, environment: Mapping[str, str], part: Row) -> Rows:
    """Yield the rows that a part prints until its time limit; set its status at the end."""
    command = [sys.executable, __file__, "--device", given.device, "--part", name, *["--quick"] * given.quick]
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        timers = [
            threading.Timer(LIMITS_S[name], process.terminate),
            threading.Timer(LIMITS_S[name] + GRACE_S, process.kill),
        ]
        for timer in timers:
            timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("{"):  # libraries may print lines of their own
                    yield json.loads(line)
            code = process.wait()
        finally:
            for timer in timers:
                timer.cancel()
            if process.poll() is None:  # this process is interrupted
                process.terminate()
                process.wait(GRACE_S)
        timed_out = time.perf_counter() - start > LIMITS_S[name]
        part["status"] = "done" if code == 0 else "timed out" if timed_out else "failed"
        if code:
            errors.seek(0)
            part["error"] = errors.read()[-2000:]


def write(file: Path, result: Row) -> None:
    """Replace a file by a result in JSON, in one step."""
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(file)


def write_random_images(folder: Path) -> None:
    """Write images of random pixels below a folder, in place of CIFAR-10's, as Parquet tables."""
    import pyarrow as pa
    from PIL import Image
    from pyarrow import parquet

    generator = np.random.default_rng(0)
    (folder / "cifar10").mkdir()
    for part, num_images in (("train", 50_000), ("test", 1_000)):
        images = []
        for pixels in generator.integers(256, size=(num_images, 32, 32, 3), dtype=np.uint8):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "png", compress_level=0)
            images.append({"bytes": file.getvalue(), "path": None})
        labels = [number % 10 for number in range(num_images)]
        parquet.write_table(pa.table({"img": images, "label": labels}), folder / f"cifar10/{part}-0.parquet")


# --- correctness ---


def correctness(device: torch.device, quick: bool) -> Rows:
    """Compare results on the device with the CPU's."""
    model = "resnet8" if quick else "resnet20"
    checks: dict[str, Callable[[], tuple[float, float]]] = {
        "float32 convolution, largest error by float64": partial(convolution_error, device),
        "float32 product, largest error by float64": partial(product_error, device),
        "forward pass in float32, relative": lambda: (relative(lambda on: outputs_on(on, model), device), 1e-4),
        "one training step, relative": lambda: (relative(lambda on: stepped_on(on, model), device), 1e-4),
        "entropies of layers, nats": lambda: (largest(lambda on: layer_entropies(weights_on(on, model)), device), 1e-9),
        "entropies of filters, nats": lambda: (
            largest(lambda on: torch.cat([*map(filter_entropies, weights_on(on, model))]), device),
            1e-9,
        ),
        "alpha": lambda: (largest(alphas_on, device), 1e-9),
    }
    rules: dict[str, Mapping[str, Any]] = {
        "graft": {"graft": {}},
        "graft, filters": {"graft": {"level": "filter", "criterion": "l1"}},
        "papa": {"papa": {}},
        "wash": {"wash": {"share": 0.5}},
        "sparta": {"sparta": {"share": 0.5}},
        "outer": {"outer": {}},
    }
    for name, tree in rules.items():
        checks[f"exchange by {name}, relative"] = partial(exchange_error, device, tree, model)
    for one in (model,) if quick else (model, "torchvision:resnet18", "mobilenetv2"):
        checks[f"numbers that resuming {one} changes, deterministic"] = partial(resuming_error, device, one)
    for name, check in checks.items():
        try:
            error, tolerance = check()
        except Exception as failure:  # the next check is independent of it
            yield {"check": name, "ok": False, "failure": describe_exception(failure)}
        else:
            yield {"check": name, "ok": error <= tolerance, "error": error, "tolerance": tolerance}


def relative(on: Callable[[torch.device], Tensor], device: torch.device) -> float:
    """Return the L2 norm of the difference between the device's and the CPU's values, relative to the CPU's."""
    expected = on(CPU).double().cpu()
    return float((on(device).double().cpu() - expected).norm() / expected.norm())


def largest(on: Callable[[torch.device], Tensor], device: torch.device) -> float:
    """Return the largest difference between the device's and the CPU's values."""
    return float((on(device).double().cpu() - on(CPU).double().cpu()).abs().max())


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolution_error(device: torch.device) -> tuple[float, float]:
    """Return the error of a convolution of 576 products per sum, relative to the largest output; TF32 has over 1e-4."""
    if device.type == "cuda":
        set_up_cuda(deterministic=False)
    images, weight = drawn(16, 64, 32, 32), drawn(64, 64, 3, 3, seed=1)
    expected = nn.functional.conv2d(images.double(), weight.double())
    found = nn.functional.conv2d(images.to(device), weight.to(device)).cpu().double()
    return float((found - expected).abs().max() / expected.abs().max()), 1e-5


def product_error(device: torch.device) -> tuple[float, float]:
    """Return the error of a product of matrices with sums of 1024, relative to the largest; TF32 has over 1e-4."""
    one, other = drawn(1024, 1024), drawn(1024, 1024, seed=1)
    expected = one.double() @ other.double()
    return float(((one.to(device) @ other.to(device)).cpu() - expected).abs().max() / expected.abs().max()), 1e-5


def learner_on(device: torch.device, model: str) -> Learner:
    splits = load_splits(DataSettings(name="digits", max_train_images=2 * BATCH, val_fraction=0.5), seed=0)
    settings = settings_of({}, model=model, precision="float32").training
    return Learner(
        network_of(model, 0), splits.train, settings, Classification(), lr=lambda _: 0.01, seed=0, peer=0, device=device
    )


def outputs_on(device: torch.device, model: str) -> Tensor:
    outputs, _ = learner_on(device, model).evaluate(
        load_splits(DataSettings(name="digits", max_train_images=2 * BATCH, val_fraction=0.5), seed=0).val
    )
    assert isinstance(outputs, Tensor)
    return outputs


def stepped_on(device: torch.device, model: str) -> Tensor:
    """Return the weights after an epoch of one step."""
    learner = learner_on(device, model)
    learner.train_epoch()
    return learner.state.buffer


def weights_on(device: torch.device, model: str) -> list[Tensor]:
    return [weight.to(device) for weight in network_of(model, 0).parameters() if weight.dim() > 1]


def alphas_on(device: torch.device) -> Tensor:
    return adaptive_alpha(drawn(100).double().to(device), drawn(100, seed=1).double().to(device), c=500.0)


def exchange_error(device: torch.device, tree: Mapping[str, Any], model: str) -> tuple[float, float]:
    """Return the relative error of a receiver's weights after an exchange with two donors."""
    settings = settings_of(tree, model=model)

    def received(on: torch.device) -> Tensor:
        rules = []
        for peer in range(3):
            network = network_of(model, peer)
            sites = find_sites(network, (3, 32, 32), model)
            state = FlatState(network.to(on))
            measures = site_measures(state, sites, settings.graft)
            rules.append(make_rule(ExchangeContext(peer, state, sites, measures, settings)))
        receiver, *donors = (rule for rule in rules if rule is not None)
        nothing = torch.empty(0, dtype=torch.int64)
        receiver.receive(
            [
                take_snapshot(
                    rule.context.state, rule.context.peer, rule.context.measures.entropies, nothing, rule.publish()
                )
                for rule in donors
            ]
        )
        return receiver.weights

    return relative(received, device), 1e-6


def resuming_error(device: torch.device, model: str) -> tuple[float, float]:
    """Return how many of the saved numbers differ between two epochs and an epoch, a save, a load and an epoch."""
    data = {"data": {"name": "digits", "max_train_images": 200}}
    settings = settings_of(data, model=model, batch_size=64, deterministic=True)
    whole, first, second = (Peer(settings, 0, device.type) for _ in range(3))
    whole.train(2)
    first.train(1)
    second.load(first.save())
    second.train(1)
    one, other = (np.frombuffer(peer.save(), np.uint8) for peer in (whole, second))
    return float("inf") if one.shape != other.shape else float(np.count_nonzero(one != other)), 0.0


# --- settings ---


def settings_of(*trees: Mapping[str, Any], model: str = "resnet20", num_peers: int = 2, **training: Any) -> Settings:
    """Return the settings of a population without a method, overlaid by sections."""
    tree: dict[str, Any] = {
        "data": {"name": "cifar10"},
        "model": {"name": model},
        "training": {"epochs": 10**4, "batch_size": BATCH, **training},
        "population": {"num_peers": num_peers},
    }
    for one in trees:
        for name, section in one.items():
            tree[name] = {**tree.get(name, {}), **section}
    return parse_space(tree).resolve()


def cifar(num_images: int) -> dict[str, Any]:
    """Return a section `data` with a number of training images, and few for validation."""
    num_val = 100
    return {"data": {"max_train_images": num_images + num_val, "val_fraction": num_val / (num_images + num_val)}}


def calls(group: LocalGroup, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
    """Return the results of a method by peer; those of `publish` are copied, as for an exchange."""
    mode: ResultMode = "ref" if method == "publish" else "value"
    return dict(group.run(method, arguments, math.inf, result_mode=mode))


def group_of(settings: Settings, device: torch.device) -> LocalGroup:
    return LocalGroup(partial(Peer, settings, device=device.type), settings.population.num_peers)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def megabytes(device: torch.device) -> float | None:
    """Return the largest memory of tensors on a GPU since the last call, in MB; None on a CPU."""
    if device.type == "cpu":
        return None
    most = torch.cuda.max_memory_allocated(device) / 1e6
    torch.cuda.reset_peak_memory_stats(device)
    return round(most, 1)


# --- waits ---


def waits(device: torch.device, quick: bool) -> Rows:
    """Count torch's warnings of waits: in a training step beyond the first ones, and in the calls of an exchange."""
    del quick

    def counted(act: Callable[[], Any]) -> int:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            act()
        torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(one.message) for one in caught)

    methods: dict[str, Mapping[str, Any]] = {
        "plain": {},
        "erasing, mixup": {"augmentation": {"erasing": 0.3, "mixup": 0.2}},
        "randaugment": {"augmentation": {"policy": "randaugment"}},
        "graft": {"graft": {}},
        "papa": {"papa": {}},
        "wash": {"wash": {}},
    }
    for name, tree in methods.items():
        in_epoch = []
        for num_steps in (2, 6):
            group = group_of(settings_of(cifar(num_steps * BATCH), tree), device)
            calls(group, "train", {0: (1,), 1: (1,)})
            in_epoch.append(counted(partial(calls, group, "train", {0: (1,)})))
        row: Row = {"method": name, "per step": (in_epoch[1] - in_epoch[0]) / 4, "per epoch besides": in_epoch[0]}
        if "augmentation" not in tree and tree:
            row["publish"] = counted(partial(calls, group, "publish", {0: ()}))
            donor = calls(group, "publish", {1: ()})[1]
            row["exchange"] = counted(partial(calls, group, "exchange", {0: (donor,)}))
            row["save"] = counted(partial(calls, group, "save", {0: ()}))
        yield row


# --- speed ---


def training(device: torch.device, quick: bool) -> Rows:
    """Measure one peer's training against both baselines, and the price of exact and of deterministic arithmetic."""
    batch, ours_images, their_batches, turns = (32, 32, 1, 1) if quick else (BATCH, 160 * BATCH, 50, 3)
    models = ("resnet8",) if quick else MODELS
    baselines = {"plain": PlainPeers, "competent": CompetentPeers}
    if is_to_download(DataSettings(name="cifar10")):
        del baselines["competent"]  # it trains on images of CIFAR-10

    def new_peer(model: str, **options: Any) -> Peer:
        settings = settings_of(cifar(ours_images), model=model, num_peers=1, batch_size=batch, **options)
        return Peer(settings, 0, device.type)

    for model in models:
        peer = new_peer(model)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as ends:
            ways = [partial(seconds_of_epoch, peer)]
            for start in baselines.values():
                processes = start(model, 1, Path(folder), torch.get_num_threads(), batch)
                ends.callback(processes.close)
                ways.append(partial(processes.ask, f"train {their_batches}"))
            ours_s, *theirs_s = in_turns(*ways, num_turns=turns)
        ours = [ours_images / seconds for seconds in ours_s]
        for baseline, seconds_of in zip(baselines, theirs_s, strict=True):
            theirs = [their_batches * batch / seconds for seconds in seconds_of]
            ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
            yield {
                "model": model,
                "baseline": baseline,
                "images/s": round(median(ours)),
                "baseline, images/s": round(median(theirs)),
                "times": round(median(ratios), 2),
                "from": round(min(ratios), 2),
                "to": round(max(ratios), 2),
                "MB": megabytes(device),
            }
    model = models[0]
    variants: dict[str, dict[str, Any]] = {
        "auto": {},
        "float32": {"precision": "float32"},
        "deterministic": {"deterministic": True},
    }
    speeds: dict[str, float] = {}
    for name, options in variants.items():  # not in turns: they set up their process
        peer = new_peer(model, **options)
        speeds[name] = ours_images / min(seconds_of_epoch(peer) for _ in range(turns))
    yield {"model": model} | {f"{name}, images/s": round(speed) for name, speed in speeds.items()}


def seconds_of_epoch(peer: Peer) -> float:
    row = peer.train(1)
    assert isinstance(row, dict)
    return float(row["train_s"])


def exchange(device: torch.device, quick: bool) -> Rows:
    """Measure the publishing and the receiving of all peers, which share the device, in milliseconds per peer."""
    for model in ("resnet8",) if quick else ("resnet32", "torchvision:resnet50"):
        for section in ("graft",) if quick else ("graft", "papa", "wash"):
            num_peers = 4
            tree = {"data": {"name": "digits", "max_train_images": 200}, section: {}}
            group = group_of(settings_of(tree, model=model, num_peers=num_peers), device)
            times: dict[str, list[float]] = {"publish": [], "exchange": []}
            for _ in range(2 if quick else 6):
                start = time.perf_counter()
                snapshots = calls(group, "publish", dict.fromkeys(range(num_peers), ()))
                middle = time.perf_counter()
                calls(group, "exchange", {peer: (snapshots[(peer - 1) % num_peers],) for peer in snapshots})
                synchronize(device)
                times["publish"].append(middle - start)
                times["exchange"].append(time.perf_counter() - middle)
            yield {
                "model": model,
                "rule": section,
                "MB a peer": round(snapshots[0].weights.nbytes / 1e6, 1),
                **{f"{name}, ms": round(1000 * median(s[1:]) / num_peers, 2) for name, s in times.items()},
            }


def kernels(device: torch.device, quick: bool) -> Rows:
    """Measure one peer's computation in an exchange, by `kernels.py`."""
    for model in ("resnet8",) if quick else ("resnet110", "mobilenetv2", "torchvision:resnet50"):
        case = kernels_measured(model, device, 1 if quick else 5)
        shown = {key: value if isinstance(value, str) else round(value, 3) for key, value in case.shown.items()}
        ends = {"times": case.ratio, "from": min(case.ratios), "to": max(case.ratios)}
        yield {
            "model": model,
            **shown,
            **{key: round(value, 2) for key, value in ends.items()},
            "MB": megabytes(device),
        }


def peers(device: torch.device, quick: bool) -> Rows:
    """Measure rounds of a grafting population whose peers take turns in this process."""
    images, model = (BATCH, "resnet8") if quick else (80 * BATCH, "resnet20")
    for num_peers in PEERS[:2] if quick else PEERS:
        method: dict[str, Any] = {"graft": {}} if num_peers > 1 else {}
        settings = settings_of(cifar(images), method, model=model, num_peers=num_peers)
        population = Population(group_of(settings, device), settings)
        population.step()
        start = time.perf_counter()
        done = population.step()
        seconds = time.perf_counter() - start
        trained = sum(row["train_images"] for row in done.peers)
        in_training = sum(row["train_s"] for row in done.peers)
        yield {
            "peers": num_peers,
            "model": model,
            "images/s": round(trained / seconds),
            "share of training": round(in_training / seconds, 3),
            "MB": megabytes(device),
        }


def actors(device: torch.device, quick: bool) -> Rows:
    """Measure peers in Ray actors that share the GPU, started as in `training.py`."""
    del device, quick
    from peers import this_machine
    from training import population

    with this_machine():
        for num_peers in PEERS:
            images = 80 * BATCH
            with population("resnet20", num_peers, images, BATCH) as train:
                train()
                seconds = [train() for _ in range(2)]
            yield {"peers": num_peers, "model": "resnet20", "images/s": round(num_peers * images / min(seconds))}


# --- accuracy ---


class SmallNet(nn.Module):
    """A network for the digits."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.classifier(self.features(images))
        return logits


def digits(device: torch.device, quick: bool) -> Rows:
    """Train a user-defined network through `graftpop.Population`, which takes the GPU if there is one."""
    del device, quick
    from sklearn.datasets import load_digits

    import graftpop

    found = load_digits()
    items = torch.utils.data.TensorDataset(
        torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)
    )
    train, test = torch.utils.data.random_split(items, [1500, 297], torch.Generator().manual_seed(0))
    start = time.perf_counter()
    population = graftpop.Population(
        SmallNet,
        train,
        test,
        classes=list("0123456789"),
        training={"epochs": 4, "schedule": "one_cycle"},
        population={"num_peers": 2},
        graft={},
    )
    for _ in population.run():
        pass
    yield accuracy_row("user-defined network, 2 peers, 4 epochs", population.outcome["test_accuracy"], 0.9, start)


def cifar10(device: torch.device, quick: bool) -> Rows:
    """Train two peers that graft for a few epochs."""
    del quick
    settings = settings_of({"graft": {}}, epochs=5, schedule="one_cycle", batch_size=256)
    start = time.perf_counter()
    running = Population(group_of(settings, device), settings)
    done = [running.step() for _ in range(settings.num_rounds)][-1]
    reached = running.finish(done)["test_accuracy"]
    yield accuracy_row("resnet20, 2 peers, 5 epochs", reached, 0.7, start)


def accuracy_row(case: str, reached: Any, least: float, start: float) -> Row:
    return {
        "case": case,
        "test_accuracy": round(float(reached), 4),
        "at least": least,
        "ok": float(reached) >= least,
        "seconds": round(time.perf_counter() - start, 1),
    }


PARTS: dict[str, Callable[[torch.device, bool], Rows]] = {
    "correctness": correctness,
    "waits": waits,
    "training": training,
    "exchange": exchange,
    "kernels": kernels,
    "peers": peers,
    "digits": digits,
    "cifar10": cifar10,
    "actors": actors,
}


if __name__ == "__main__":
    main()
