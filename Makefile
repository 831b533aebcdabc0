# Long tests and measurements, too slow for every change.

.PHONY: nodes chaos mutants coverage lowest integrations
nodes:  ## studies on a cluster of several nodes, some of which die or hang; thirteen minutes on 2 cores
	python -m pytest -n 0 -m nodes
chaos:  ## kill peers, trials, drivers and nodes a hundred times; about an hour and a half on 2 cores
	python -m pytest -n 0 -m chaos -s
mutants:  ## change the code in small ways, one at a time; the unit tests must notice
	python tests/mutants/run.py
coverage:  ## lines and branches that the unit tests reach
	python -m pytest -m "not ray" --cov=graftpop --cov-branch --cov-report=term:skip-covered
integrations:  ## the callbacks of PyTorch Lightning and Hugging Face's Trainer, in build/integrations
	python -m venv build/integrations
	build/integrations/bin/pip install -c constraints.txt . lightning 'transformers[torch]' datasets pytest pytest-timeout pytest-xdist
	build/integrations/bin/python -m pytest -n 0 tests/integrations tests/data/test_huggingface.py
lowest:  ## the unit tests with the lowest supported version of every run-time dependency, in build/lowest
	python -m venv build/lowest
	build/lowest/bin/pip install -c constraints-lowest.txt '.[pruning]' \
	    duckdb hypothesis jsonschema pytest pytest-timeout pytest-xdist tensorboard
	build/lowest/bin/python -m pytest -m "not ray" --ignore=tests/exporting --ignore=tests/docs --ignore=tests/test_wheel.py \
	    --ignore=tests/test_benchmarks.py \
	    --ignore=tests/reporting/test_report_browser.py --ignore=tests/run/test_object_store.py \
	    --ignore=tests/cluster/test_trackers.py \
	    -W "ignore::optuna.exceptions.ExperimentalWarning" \
	    -W 'ignore:`torch.jit.script_method:DeprecationWarning' \
	    -W "ignore:'click.utils:DeprecationWarning"    # constant_liar before optuna 5, torch 2.11's compiler, typer 0.16
