"""Red-team trials of unchanged Flower apps: ``flwr-byz redteam APP``.

`command` does one run after another; `attack_text` parses attacks, `flower_app` an app's
pyproject.toml. A run has a process of its own (`process`, `simulate`): there `training` watches
what the app trains, `swap` exchanges its strategy, and `attacked_app` makes clients attack. `runs`
holds a run and its result; `verdict` judges results, `report` shows them.
"""
