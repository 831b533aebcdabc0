"""The plan of a study, which `--dry-run` prints."""

from collections.abc import Sequence

from graftpop.cli.duration import duration_text, typical_trials
from graftpop.cli.stages import console, data_text, prefixed_errors, print_connecting, print_findings, print_stage
from graftpop.cli.trial_table import sample_text
from graftpop.cluster.connection import connect, local_node
from graftpop.cluster.resources import check_resources, resource_request
from graftpop.run.run_folder import RunFolder
from graftpop.space import Space
from graftpop.study.optuna_storage import check_driver
from graftpop.study.preflight import Findings, check_data_and_models, data_to_download, user_code_names
from graftpop.study.samplers import make_sampler
from graftpop.study.trackers import check_destinations

__all__ = ["print_plan"]

TRIALS_SHOWN = 3
"""Number of trials that are printed."""


def print_plan(space: Space, folder: RunFolder, where: str, overrides: Sequence[str], address: str | None) -> None:
    """Check a study as its start does; print its settings, the cluster, the first trials and the estimated duration.

    Nothing is written but the cache of decoded images, and no server of a tracker or storage is called.
    """
    with prefixed_errors(where, overrides):
        absent = data_to_download(space)
        if not absent:
            print_stage("loading", data_text(space))
        findings = Findings([], []) if absent else check_data_and_models(space)
        check_destinations(space, folder)
        check_driver(space, folder)
    if address is None:
        nodes = [local_node()]
    else:
        print_connecting(address)
        with connect(address) as connection:
            nodes = connection.nodes
    with prefixed_errors(where, overrides):
        check_resources(space.boundary_settings(), nodes)
    num_trials, sampler = space.num_trials(), make_sampler(space)
    samples = [sampler.sample(number) for number in range(min(TRIALS_SHOWN, num_trials))]
    if absent:
        names = ", ".join(absent)
        duration = f"not estimated: {names} is not on this machine; a study downloads it, then checks the networks"
    else:
        print_stage("timing", "a few batches")
        with prefixed_errors(where, overrides):
            duration = duration_text(typical_trials(space), num_trials, nodes)

    console.print()
    console.print(space.to_yaml(), markup=False, end="")
    console.print(
        f"\ncluster    {len(nodes)} node{'s' * (len(nodes) > 1)}, {sum(node.cpus for node in nodes):g} CPU, "
        f"{sum(node.gpus for node in nodes):g} GPU"
    )
    console.print(f"study      {num_trials} trials of up to {space.most_rounds()} rounds")
    print_findings(findings)
    if names := ", ".join(user_code_names(space)):
        console.print(f"imported   {names}: user code, which --dry-run runs too", markup=False, soft_wrap=True)
    for number, sample in enumerate(samples):
        request = resource_request(space.resolve(sample), nodes)
        values = ", ".join(f"{key} = {sample_text(value)}" for key, value in sample.items()) or "nothing is searched"
        console.print(f"trial {number}    {values}  ({request})", markup=False, soft_wrap=True)
    console.print(f"time       {duration}", markup=False, soft_wrap=True)
