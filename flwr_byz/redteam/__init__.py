"""Red-team trials of unchanged Flower apps: ``flwr-byz redteam APP``.

`command` does one run after another of a `flower_app`, each in a process of its own (`simulate`):
there `training` watches what the app trains, `swap` exchanges its strategy, and `attacked_app`
makes clients attack. `verdict` judges the results (`runs`), `report` shows them.

``flwr-byz advise APP`` (`advise`) does one run in the same way, a `pilot`.
"""
