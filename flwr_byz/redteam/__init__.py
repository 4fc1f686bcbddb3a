"""Red-team trials of Flower apps as they are: ``flwr-byz redteam APP``.

`command` is what the command does, play after play; `attack_text` reads attacks, `flower_app` an
app's pyproject.toml. A play runs in a process of its own (`process`, `play`): there `training`
watches what the app trains, `swap` exchanges its strategy, and `attacked_app` makes clients attack.
`outcome` is what came of a play, `verdict` what that means, `report` how it is shown.
"""
