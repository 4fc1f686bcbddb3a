"""The paper's quantities as functions, and the planner that turns them into settings.

Each function names its equation. Symbols are the paper's: m clients, q of them Byzantine, k
batches, N samples in all, d parameters, η the step, γ the gap of the median, τ the norm above which
batch means are trimmed. `ConditionFails` names a condition of the paper that does not hold, with
its two sides.
"""

from .calibration import calibrated_contraction, calibrated_error
from .concentration import check_delta, delta_1, delta_2, xi_1, xi_2
from .conditions import ConditionFails
from .constants import (
    LINEAR_REGRESSION,
    Constants,
    Statistics,
    estimate_statistics,
    linear_regression,
)
from .descent import (
    contraction,
    error_bound,
    error_floor,
    largest_xi_2,
    population_contraction,
    rho,
    sharp_population_contraction,
    step_size,
)
from .median import c_alpha, median_radius, sharp_c_alpha
from .planner import plan
from .plans import Plan, StrategyOptions, TradeOff
from .probability import binary_divergence, exact_success_probability, success_probability
from .rates import (
    client_computation,
    communication,
    error_rate,
    minimax_rate,
    paper_rate,
    rounds_to_floor,
    server_computation,
)
from .theorems import Guarantee, theorem_4, theorem_5

__all__ = [
    "LINEAR_REGRESSION",
    "ConditionFails",
    "Constants",
    "Guarantee",
    "Plan",
    "Statistics",
    "StrategyOptions",
    "TradeOff",
    "binary_divergence",
    "c_alpha",
    "calibrated_contraction",
    "calibrated_error",
    "check_delta",
    "client_computation",
    "communication",
    "contraction",
    "delta_1",
    "delta_2",
    "error_bound",
    "error_floor",
    "error_rate",
    "estimate_statistics",
    "exact_success_probability",
    "largest_xi_2",
    "linear_regression",
    "median_radius",
    "minimax_rate",
    "paper_rate",
    "plan",
    "population_contraction",
    "rho",
    "rounds_to_floor",
    "server_computation",
    "sharp_c_alpha",
    "sharp_population_contraction",
    "step_size",
    "success_probability",
    "theorem_4",
    "theorem_5",
    "xi_1",
    "xi_2",
]
