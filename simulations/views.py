"""The views of runs that a declaration can ask for."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class View(BaseModel):
    """An entry ``[[view]]`` of a declaration.

    Attributes
    ----------
    kind : str
        - "worst": the worst case over attacks, by rule and number of Byzantine clients;
        - "attacks": every attack on every rule, and by how many each rule is broken;
        - "rounds": the measure over rounds, a panel for each attack;
        - "worst-rounds": the same without attack, and under each rule's own worst attack;
        - "ranking": attacks and placements, the most harmful first;
        - "effects": what momentum and other options change beside the same rule without;
        - "cost": the server's time for a round;
        - "stopped": errors that ended runs at the server, and runs that failed;
        - "choice": the rules of the best worst cases, by data and by what the server holds, of all
          studies of a problem in one table;
        - "minority": without attack, the accuracy on the class that each rule does worst on;
        - "time": simulated time to where the rule ends that waits for all clients, and the measure
          over time, of all studies of a problem and a latency in one table;
        - "detection": how well the audit trail's evidence tells Byzantine clients from honest ones;
        - "claims": what the paper claims, judged by runs of those names, whatever the study.
    splits : sequence of str
        All by default.
    num_byzantine : int or None
        By default of those that were run the nearest to a fifth of the clients.
    drawn : sequence of str
        Claims that need no runs, as they draw what they judge.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal[
        "worst",
        "attacks",
        "rounds",
        "worst-rounds",
        "ranking",
        "effects",
        "cost",
        "stopped",
        "choice",
        "minority",
        "time",
        "detection",
        "claims",
    ]
    splits: tuple[str, ...] = ()
    num_byzantine: int | None = Field(default=None, ge=0)
    drawn: tuple[str, ...] = ()
