"""Networks have the papers' sizes, the documented state keys, and the properties that grafting needs."""

import copy
import math
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graftpop.errors import ModelError
from graftpop.models import MODELS, build, find_model
from graftpop.sites import find_sites

RESNETS = {"resnet8": 1, "resnet20": 3, "resnet32": 5, "resnet44": 7, "resnet56": 9, "resnet110": 18}


@cache
def on_meta(name: str, num_classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return build(name, num_classes)


def seeded(name: str, num_classes: int = 10, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(name, num_classes)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def convolutions(network: nn.Module) -> dict[str, nn.Conv2d]:
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}


# Parameters by arithmetic: convolution without bias, BatchNorm, linear layer with bias.
def conv(num_inputs: int, num_filters: int, size: int, groups: int = 1) -> int:
    return num_inputs // groups * num_filters * size * size


def norm(num_channels: int) -> int:
    return 2 * num_channels


def linear(num_inputs: int, num_outputs: int = 10) -> int:
    return (num_inputs + 1) * num_outputs


def resnet_parameters(n: int) -> int:
    stages = sum(
        conv(i, o, 3) + (2 * n - 1) * conv(o, o, 3) + 2 * n * norm(o) for i, o in [(16, 16), (16, 32), (32, 64)]
    )
    return conv(3, 16, 3) + norm(16) + stages + linear(64)


def mobilenetv2_parameters() -> int:
    """Return the count of torchvision's network plus the released code's first 1x1 convolution and projections."""
    projections = sum(conv(i, o, 1) + norm(o) for i, o in [(32, 16), (16, 24), (64, 96), (160, 320)])
    return num_parameters(on_meta("torchvision:mobilenet_v2")) + conv(32, 32, 1) + norm(32) + projections


def vgg16_parameters() -> int:
    """Return the count of configuration D, its three linear layers replaced by one, plus BatchNorm."""
    fully_connected = linear(7 * 7 * 512, 4096) + linear(4096, 4096) + linear(4096, 1000)
    return num_parameters(on_meta("torchvision:vgg16", 1000)) - fully_connected + norm(4224) + linear(512)


def wrn28_10_parameters() -> int:
    stages = sum(
        norm(i) + 7 * norm(o) + conv(i, o, 3) + 7 * conv(o, o, 3) + conv(i, o, 1)
        for i, o in [(16, 160), (160, 320), (320, 640)]
    )
    return conv(3, 16, 3) + stages + norm(640) + linear(640)


def densenet_parameters() -> int:
    pairs = sum(
        norm(i + 12 * j) + conv(i + 12 * j, 48, 1) + norm(48) + conv(48, 12, 3)
        for i in (24, 108, 150)
        for j in range(16)
    )
    transitions = norm(216) + conv(216, 108, 1) + norm(300) + conv(300, 150, 1)
    return conv(3, 24, 3) + pairs + transitions + norm(342) + linear(342)


def resnext_parameters() -> int:
    def block(i: int, hidden: int, o: int) -> int:
        return conv(i, hidden, 1) + conv(hidden, hidden, 3, groups=8) + conv(hidden, o, 1) + 2 * norm(hidden) + norm(o)

    stages = sum(
        block(i, 2 * o, o) + conv(i, o, 1) + norm(o) + 2 * block(o, 2 * o, o)
        for i, o in [(64, 256), (256, 512), (512, 1024)]
    )
    return conv(3, 64, 3) + norm(64) + stages + linear(1024)


@pytest.mark.parametrize(
    ("name", "exact", "by_arithmetic", "published"),
    [
        ("resnet8", 75_290, partial(resnet_parameters, 1), None),
        ("resnet20", 269_722, partial(resnet_parameters, 3), "0.27"),  # He et al. 2016, table 6
        ("resnet32", 464_154, partial(resnet_parameters, 5), "0.46"),  # the same table, as the next three
        ("resnet44", 658_586, partial(resnet_parameters, 7), "0.66"),
        ("resnet56", 853_018, partial(resnet_parameters, 9), "0.85"),
        ("resnet110", 1_727_962, partial(resnet_parameters, 18), "1.7"),
        ("mobilenetv2", 2_296_922, mobilenetv2_parameters, None),  # published for 1000 classes only
        ("vgg16", 14_728_266, vgg16_parameters, None),  # published with three fully connected layers only
        ("wrn28_10", 36_479_194, wrn28_10_parameters, "36.5"),  # Zagoruyko & Komodakis 2016, table 4
        ("densenet", 769_162, densenet_parameters, "0.8"),  # Huang et al. 2017, table 2
        ("resnext", 34_426_698, resnext_parameters, "34.4"),  # Xie et al. 2017, table 7
    ],
)
def test_parameter_count_equals_the_published_one(
    name: str, exact: int, by_arithmetic: Callable[[], int], published: str | None
) -> None:
    assert num_parameters(on_meta(name)) == exact == by_arithmetic()
    if published is not None:
        assert f"{exact / 1e6:.{len(published.partition('.')[2])}f}" == published


def test_filter_counts_are_those_of_the_released_grafting_code() -> None:
    """1136 and 17088 filters (its readme), counted over the states with `conv` in their name (filter_comparison.py).

    That leaves MobileNetV2's four projection shortcuts (16 + 24 + 96 + 320 filters) out.
    """
    for name, released, total in [("resnet32", 1136, 1136), ("mobilenetv2", 17_088, 17_088 + 456)]:
        filters = {key: module.out_channels for key, module in convolutions(on_meta(name)).items()}
        assert sum(count for key, count in filters.items() if "conv" in key) == released
        assert sum(filters.values()) == total


def test_depth_equals_the_number_in_the_name() -> None:
    def depth(name: str) -> int:
        modules = dict(on_meta(name).named_modules()).items()
        return sum(isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in key for key, module in modules)

    for name in MODELS:
        if match := re.match(r"resnet(\d+)", name):
            assert depth(name) == int(match[1])
    assert depth("densenet") == 100
    assert depth("resnext") == 29
    assert depth("vgg16") == 16 - 2  # the CIFAR form has one linear layer instead of three
    assert len(convolutions(on_meta("wrn28_10"))) == 28  # its paper counts convolutions, shortcuts included


@pytest.mark.parametrize("name", RESNETS)
def test_leaky_variant_has_the_same_states_and_initial_weights(name: str) -> None:
    plain, leaky = seeded(name), seeded(f"{name}_leaky")
    assert list(plain.state_dict()) == list(leaky.state_dict())
    assert all(map(torch.equal, plain.state_dict().values(), leaky.state_dict().values()))
    slopes = {module.negative_slope for module in leaky.modules() if isinstance(module, nn.LeakyReLU)}
    assert slopes == {0.01}
    assert not any(isinstance(module, nn.ReLU) for module in leaky.modules())


@pytest.mark.parametrize("num_classes", [10, 100])
@pytest.mark.parametrize("name", MODELS)
def test_logits_have_one_column_per_class(name: str, num_classes: int) -> None:
    assert on_meta(name, num_classes)(torch.empty(3, 3, 32, 32, device="meta")).shape == (3, num_classes)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.endswith("_leaky")])
def test_images_of_other_sizes_are_accepted(name: str) -> None:
    assert on_meta(name)(torch.empty(2, 3, 45, 64, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", [name for name in MODELS if not name.endswith("_leaky")])
def test_seed_fixes_weights_and_logits_are_finite(name: str) -> None:
    network, twin = seeded(name), seeded(name)
    assert all(map(torch.equal, network.state_dict().values(), twin.state_dict().values()))
    with torch.no_grad():
        logits = network(images(2, 3, 32, 32))
    assert torch.isfinite(logits).all()
    assert logits.std() > 0


def test_another_seed_gives_other_weights() -> None:
    first, second = seeded("resnet8", seed=0), seeded("resnet8", seed=1)
    assert not torch.equal(first.get_parameter("conv1.weight"), second.get_parameter("conv1.weight"))


@pytest.mark.parametrize("name", ["resnet8", "resnet8_leaky", "mobilenetv2", "densenet"])
def test_every_parameter_gets_a_gradient_from_images_of_8x8(name: str) -> None:
    network = seeded(name)
    nn.functional.cross_entropy(network(images(4, 3, 8, 8)), torch.tensor([0, 1, 2, 3])).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize(
    ("name", "variance"),
    [
        ("resnet20", lambda fan_in, fan_out: 2 / fan_in),
        ("mobilenetv2", lambda fan_in, fan_out: 1 / (3 * fan_in)),
        ("vgg16", lambda fan_in, fan_out: 2 / (fan_in + fan_out)),
        ("wrn28_10", lambda fan_in, fan_out: 2 / fan_out),
        ("densenet", lambda fan_in, fan_out: 2 / fan_out),
        ("resnext", lambda fan_in, fan_out: 2 / fan_out),
    ],
)
def test_initial_weights_have_the_variance_of_their_paper(name: str, variance: Callable[[int, int], float]) -> None:
    num_checked = 0
    for key, module in convolutions(seeded(name)).items():
        if module.weight.numel() >= 9000:
            fan_in, fan_out = module.weight[0].numel(), module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(variance(fan_in, fan_out)), rel=0.04), key
            assert module.bias is None or not module.bias.any(), key
            num_checked += 1
    assert num_checked >= 6


def test_resnet_and_mobilenetv2_have_the_released_states() -> None:
    block = [f"{part}{i}" for i in (1, 2) for part in ("conv", "bn")]
    resnet = ["conv1", "bn1", *(f"layer{stage}.0.{part}" for stage in (1, 2, 3) for part in block), "linear"]
    blocks = [f"layers.{layer}.{part}{i}" for layer in range(17) for i in (1, 2, 3) for part in ("conv", "bn")]
    projections = [f"layers.{layer}.shortcut.{i}" for layer in (0, 1, 10, 16) for i in (0, 1)]
    mobilenetv2 = ["conv1", "bn1", *blocks, *projections, "conv2", "bn2", "linear"]
    for name, modules in [("resnet8", resnet), ("mobilenetv2", mobilenetv2)]:
        assert sorted({key.rpartition(".")[0] for key in on_meta(name).state_dict()}) == sorted(modules)


def test_option_a_shortcut_subsamples_and_pads_channels_on_both_sides() -> None:
    block = seeded("resnet8").get_submodule("layer2.0")
    nn.init.zeros_(block.get_parameter("bn2.weight"))  # only the shortcut is left
    x = images(2, 16, 5, 7)
    expected = torch.zeros(2, 32, 3, 4)
    expected[:, 8:24] = x[:, :, ::2, ::2].relu()
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "num_convolutions"),
    [
        ("resnet20", {32: 7, 16: 6, 8: 6}),
        ("mobilenetv2", {32: 13, 16: 9, 8: 22, 4: 13}),  # the 3x3 convolution of a block has its stride
        ("vgg16", {32: 2, 16: 2, 8: 3, 4: 3, 2: 3}),
        ("wrn28_10", {32: 10, 16: 9, 8: 9}),
        ("densenet", {32: 34, 16: 33, 8: 32}),
        ("resnext", {32: 12, 16: 10, 8: 9}),  # the grouped convolution of a block has its stride
    ],
)
def test_strides_are_those_of_the_papers(name: str, num_convolutions: dict[int, int]) -> None:
    network = copy.deepcopy(on_meta(name))
    heights: Counter[int] = Counter()
    for module in convolutions(network).values():
        module.register_forward_hook(lambda module, args, output: heights.update([output.shape[2]]))
    network(torch.empty(2, 3, 32, 32, device="meta"))
    assert heights == num_convolutions


@pytest.mark.parametrize(
    ("name", "num_pairs"),
    [
        *((name, 6 * n + 1) for name, n in RESNETS.items()),  # all
        ("mobilenetv2", 57),  # all: 17 x 3, stem, head, 4 projections
        ("vgg16", 13),  # all
        ("resnext", 31),  # all: 9 x 3, stem, 3 projections
        ("wrn28_10", 13),  # the stem and the first of each block
        ("densenet", 49),  # the stem and each bottleneck
    ],
)
def test_batchnorm_gets_the_unmodified_output_tensor_of_its_convolution(name: str, num_pairs: int) -> None:
    network = copy.deepcopy(on_meta(name))
    outputs: list[Tensor] = []
    inputs: list[Tensor] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: outputs.append(output))
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    network(torch.empty(2, 3, 32, 32, device="meta"))
    assert sum(any(x is output for output in outputs) for x in inputs) == num_pairs
    assert all(x._version == 0 for x in inputs)


@pytest.mark.parametrize("name", ["resnet8", "mobilenetv2", "densenet"])
def test_copies_channels_last_and_bfloat16_agree_with_the_plain_network(name: str) -> None:
    network = seeded(name).eval()
    x = images(2, 3, 16, 16)
    stays_last: list[bool] = []
    with torch.no_grad():
        plain = network(x)
        last = copy.deepcopy(network).to(memory_format=torch.channels_last)
        for module in convolutions(last).values():
            module.register_forward_pre_hook(
                lambda module, args: stays_last.append(args[0].is_contiguous(memory_format=torch.channels_last))
            )
        torch.testing.assert_close(last(x.to(memory_format=torch.channels_last)), plain, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(x)
    assert all(stays_last)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), plain, rtol=0.1, atol=0.1 * plain.abs().max().item())


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 32), ("mobilenet_v3_small", 32), ("googlenet", 64), ("inception_v3", 80)]
)
def test_torchvision_classifier_gives_plain_logits_in_training(name: str, size: int) -> None:
    network = seeded(f"torchvision:{name}", num_classes=7)
    assert network.training
    with torch.no_grad():
        logits = network(images(2, 3, size, size))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("resnet23", ["'resnet23'", "did you mean 'resnet32'", "torchvision:NAME"]),
        ("resnet18", ["'resnet18'", "torchvision:NAME"]),
        ("python:not_there.Net", ["'python:not_there.Net'", "'not_there'"]),
        ("python:math.Net", ["'python:math.Net'", "'math'", "'Net'"]),
        ("python:math.pi", ["python:MODULE.CLASS", "got 'python:math.pi'"]),
        ("python:os._exit", ["python:MODULE.CLASS", "got 'python:os._exit'"]),
        ("python:builtins.int", ["python:MODULE.CLASS", "got 'python:builtins.int'"]),
        ("python:Net", ["python:MODULE.CLASS", "got 'python:Net'"]),
        ("torchvision:resnet19", ["got 'torchvision:resnet19'", "did you mean torchvision:resnet18 or "]),
        ("torchvision:fasterrcnn_resnet50_fpn", ["got 'torchvision:fasterrcnn_resnet50_fpn'"]),
        ("torchvision:r3d_18", ["got 'torchvision:r3d_18'"]),
        ("torchvision:", ["got 'torchvision:'", "list_models(module=torchvision.models)"]),
        ("timmy:resnet18", ["'timmy:resnet18'", "timm:NAME"]),
    ],
)
def test_unknown_name_is_refused_with_the_closest_one(name: str, hints: list[str]) -> None:
    with pytest.raises(ModelError, match=r"^model\.name: ") as failure:
        build(name, 10)
    message = str(failure.value)
    assert "\n" not in message
    assert len(message) < 400
    assert all(hint in message for hint in hints), message


@pytest.mark.parametrize("where", ["model.name", "distillation.teachers[1].model"])
@pytest.mark.parametrize("name", ["resnet23", "torchvision:resnet19"])
def test_refusal_of_an_unknown_name_begins_with_its_key(name: str, where: str) -> None:
    with pytest.raises(ModelError, match=f"^{re.escape(where)}: .*'{name}'"):
        find_model(name, where)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_resnet.r160_in1k"])
def test_timm_classifier_gives_seeded_logits(name: str) -> None:
    pytest.importorskip("timm")
    network, twin = (seeded(f"timm:{name}", num_classes=7) for _ in range(2))
    assert network.training
    assert all(map(torch.equal, network.state_dict().values(), twin.state_dict().values()))
    with torch.no_grad():
        logits = network(images(2, 3, 160, 160))
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()


def test_timm_convolutions_with_their_batchnorms_are_sites() -> None:
    pytest.importorskip("timm")
    network = seeded("timm:test_resnet")
    sites = find_sites(network, (3, 32, 32), "timm:test_resnet", "conv_bn")
    assert {site.layer for site in sites} == set(convolutions(network))


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("resnet19", ["got 'timm:resnet19'", "did you mean timm:resnet"]),
        ("resnet18.a9_in1k", ["got 'timm:resnet18.a9_in1k'", "timm:resnet18.a1_in1k"]),
        ("", ["got 'timm:'", "timm.list_models()"]),
        ("hf-hub:timm/resnet18.a1_in1k", ["got 'timm:hf-hub:timm/resnet18.a1_in1k'"]),  # timm would download it
        ("local-dir:/tmp", ["got 'timm:local-dir:/tmp'"]),
    ],
)
def test_unknown_timm_name_is_refused_with_the_closest(name: str, hints: list[str]) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ModelError, match=r"^model\.name: ") as failure:
        build(f"timm:{name}", 10)
    message = str(failure.value)
    assert "\n" not in message
    assert len(message) < 400
    assert all(hint in message for hint in hints), message


def test_missing_timm_is_refused_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # makes the import fail
    with pytest.raises(ModelError, match=r"^model\.name: .*'timm:resnet18'; pip install 'graftpop\[timm\]'$"):
        find_model("timm:resnet18")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()",
            r"model\.name: .*, got TypeError: Net\.__init__\(\) .* from python:{module}\.Net\(7\); .*",
        ),
        (
            "class Net(nn.Module):\n    def __init__(self, num_classes):\n        super().__init__()\n"
            "        nn.Conv2d(3)",
            r"model\.name: .*, got TypeError: Conv2d\.__init__\(\) .* \({module}\.py:6\) from .*; .*",
        ),
        ("class Net(:", r"model\.name: 'python:{module}\.Net' .*: SyntaxError: .*; .*{module}"),
        ("nets = undefined", r"model\.name: .*: NameError: .*'undefined'.* \({module}\.py:3\); .*"),
    ],
)
def test_user_defined_networks_error_names_its_place(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"wrong_nets_{abs(hash(code))}"
    (tmp_path / f"{module}.py").write_text(f"from torch import nn\n\n{code}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError) as caught:
        build(f"python:{module}.Net", 7)
    assert re.fullmatch(message.replace("{module}", module), str(caught.value)), str(caught.value)


def test_user_defined_network_is_imported_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets_of_a_test.py").write_text(
        "from torch import nn\n\n\nclass Small(nn.Linear):\n    def __init__(self, num_classes):\n"
        "        super().__init__(2, num_classes)\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    network = build("python:nets_of_a_test.Small", 7)
    assert isinstance(network, nn.Linear)
    assert network.out_features == 7


class MixedLayouts(TorchDispatchMode):
    """Records the operations on several feature maps, (N, C, H, W) with C and H * W above 1, of which one has its
    channels first in memory."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        maps = [one for one in args if isinstance(one, Tensor) and one.ndim == 4 and 1 not in one.shape[1:]]
        if len(maps) > 1 and any(one.is_contiguous() for one in maps):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["resnet8", "resnet8_leaky", "mobilenetv2", "vgg16", "densenet", "resnext"])
def test_training_keeps_all_feature_maps_channels_last(name: str) -> None:
    # Operations on two layouts are slow.
    network = seeded(name).to(memory_format=torch.channels_last)
    with MixedLayouts() as layouts:
        network(images(2, 3, 32, 32).to(memory_format=torch.channels_last)).sum().backward()
    assert layouts.found == []
