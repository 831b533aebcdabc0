"""The list of mutants fits the code."""

from importlib import import_module


def test_every_mutant_fits_the_code() -> None:
    run = import_module("mutants.run")
    misfits = run.misfits(run.listed_mutants(), parses=False)
    assert [f"{mutant.id}: {reason}" for mutant, reason in misfits] == []
