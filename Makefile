# What takes too long for every change.

.PHONY: chaos
chaos:  ## kill peers, trials and drivers a hundred times; about an hour on 2 cores
	python -m pytest -m chaos -s
