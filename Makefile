# What takes too long for every change.

.PHONY: nodes chaos
nodes:  ## studies on a cluster of several nodes, some of which die; about five minutes on 2 cores
	python -m pytest -m nodes
chaos:  ## kill peers, trials, drivers and nodes a hundred times; about an hour and a half on 2 cores
	python -m pytest -m chaos -s
