"""An actor's process tells exceptions that come back in every repetition from those that may not; without Ray."""

import re

import pytest
import torch
from network_makers import Faulty, Full, Growing, Replacing
from torch import nn

from graftpop.cluster.peer_actor import PeerActor
from graftpop.cluster.resources import Node, resource_request
from graftpop.errors import PeerError, PeerLost
from graftpop.space import parse_space


def trained(network: type[nn.Module]) -> PeerError:
    """Train two epochs of two steps, and the third, whose exception is returned."""
    settings = parse_space(
        {
            "data": {"name": "digits", "max_train_images": 200},
            "model": {"name": f"python:{network.__module__}.{network.__name__}"},
            "training": {"epochs": 3, "batch_size": 128},
            "population": {"num_peers": 1},
        }
    ).resolve()
    num_threads = torch.get_num_threads()
    actor = PeerActor(settings.model_dump(), [0], resource_request(settings, [Node(1.0, 0.0)]), None)
    try:
        actor.call(0, "train", 2)
        with pytest.raises(PeerError, match=r"^peer 0: [^\n]*$") as found:
            actor.call(0, "train", 1)
    finally:
        torch.set_num_threads(num_threads)
    return found.value


def test_exception_of_user_code_is_final_and_has_its_line() -> None:
    error = trained(Faulty)
    assert type(error) is PeerError
    assert re.search(r"ZeroDivisionError: no luck in step 5 \(network_makers\.py:\d+\)$", str(error))


def test_exception_that_may_pass_is_a_loss() -> None:
    assert isinstance(trained(Full), PeerLost)


@pytest.mark.parametrize(("network", "name"), [(Growing, "more.weight"), (Replacing, "classifier.weight")])
def test_network_that_changes_its_shapes_is_refused(network: type[nn.Module], name: str) -> None:
    error = trained(network)
    assert type(error) is PeerError
    assert f"'{name}'" in str(error)
