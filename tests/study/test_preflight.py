"""What is found before anything starts: names, data, networks and teachers of every trial that a space can lead to."""

import pytest
import yaml

from graftpop.errors import GraftpopError
from graftpop.space import Space, parse_space
from graftpop.study.preflight import check_data_and_models, check_names

TWO = "variants: {plain: {}, other: %s}\n"


def space_of(text: str) -> Space:
    return parse_space(yaml.safe_load(text))


def preflight(text: str) -> None:
    space = space_of(text)
    check_names(space)
    check_data_and_models(space)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO % "{data: {name: digitz}}", "data.name: unknown name 'digitz'; choose from "),
        ("data: {name: {grid: [digits, digitz]}}\nseeds: [0]", "data.name: unknown name 'digitz'; choose from "),
        (TWO % "{model: {name: resnet9}}", "model.name: unknown name 'resnet9'; choose from "),
        (
            TWO % "{distillation: {teachers: [{model: resnet8, epochs: 1}, {model: resnet9, epochs: 1}]}}",
            "distillation.teachers[1].model: unknown name 'resnet9'; choose from ",
        ),
    ],
)
def test_the_names_of_every_variant_are_looked_up(text: str, message: str) -> None:
    with pytest.raises(GraftpopError) as caught:
        check_names(space_of(text))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seeds: [0]\ndata: {name: digits, max_train_images: {grid: [100, 10000]}}",
            "data.max_train_images: must be at most the number of training images",
        ),
        (
            "data: {name: digits}\n" + TWO % "{model: {name: vgg16}}",
            "model.name: 'vgg16' cannot take images of shape (3, 8, 8)",
        ),
        (
            "data: {name: digits}\n" + TWO % "{distillation: {teachers: [{model: 'torchvision:alexnet', epochs: 1}]}}",
            "distillation.teachers[0].model: cannot take images of shape (3, 8, 8)",
        ),
        (
            "data: {name: digits}\n" + TWO % "{distillation: {teachers: [{checkpoint: /absent}]}}",
            "distillation.teachers[0].checkpoint: no such file or folder, got '/absent'",
        ),
        (
            "data: {name: digits}\nmodel: {name: 'torchvision:resnet18'}\n" + TWO % "{graft: {compat: released_code}}",
            "",
        ),
        (
            "data: {name: digits}\nmodel: {name: 'torchvision:mobilenet_v2'}\n"
            + TWO % "{graft: {compat: released_code}}",
            "graft.compat: the released code needs a network whose first tensor has 'conv' in its name",
        ),
    ],
)
def test_the_data_and_the_networks_of_every_variant_are_tried(text: str, message: str) -> None:
    if not message:
        assert preflight(text) is None
        return
    with pytest.raises(GraftpopError) as caught:
        preflight(text)
    assert str(caught.value).startswith(message)


def test_what_every_variant_needs_is_there() -> None:
    text = (
        "data: {name: digits, max_train_images: {grid: [200, 400]}}\nmodel: {name: {grid: [resnet8, resnet20]}}\n"
        "seeds: [0, 1]\n" + TWO % "{distillation: {teachers: [{model: resnet8, epochs: 1}]}, graft: {}}"
    )
    preflight(text)
    tried = {
        (settings.data.max_train_images, settings.model.name, settings.graft is None)
        for settings in space_of(text).settings_of("data", "model")
    }
    assert tried == {
        (limit, model, plain) for limit in (200, 400) for model in ("resnet8", "resnet20") for plain in (True, False)
    }
