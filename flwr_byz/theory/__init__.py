"""The paper's quantities as functions, and the planner that turns them into settings.

Each function names its equation. Symbols are the paper's: m clients, q of them Byzantine, k
batches, N samples in all, d parameters, η the step, γ the gap of the median, τ the norm above which
batch means are trimmed.
"""

from .concentration import c_alpha as c_alpha
from .concentration import certified_c_alpha as certified_c_alpha
from .concentration import check_delta as check_delta
from .concentration import delta_1 as delta_1
from .concentration import delta_2 as delta_2
from .concentration import median_radius as median_radius
from .concentration import sharp_c_alpha as sharp_c_alpha
from .concentration import xi_1 as xi_1
from .concentration import xi_2 as xi_2
from .conditions import ConditionFails as ConditionFails
from .constants import LINEAR_REGRESSION as LINEAR_REGRESSION
from .constants import Constants as Constants
from .constants import Statistics as Statistics
from .constants import estimate_statistics as estimate_statistics
from .constants import linear_regression as linear_regression
from .constants import measured_bias as measured_bias
from .descent import contraction as contraction
from .descent import error_bound as error_bound
from .descent import error_floor as error_floor
from .descent import largest_xi_2 as largest_xi_2
from .descent import longest_step as longest_step
from .descent import population_contraction as population_contraction
from .descent import rho as rho
from .descent import sharp_contraction as sharp_contraction
from .descent import sharp_error_floor as sharp_error_floor
from .descent import step_contraction as step_contraction
from .descent import step_size as step_size
from .expected import expected_contraction as expected_contraction
from .expected import expected_error as expected_error
from .gaussian import gradient_radius as gradient_radius
from .gaussian import hessian_radius as hessian_radius
from .planner import plan as plan
from .plans import Plan as Plan
from .plans import TradeOff as TradeOff
from .probability import binary_divergence as binary_divergence
from .probability import exact_success_probability as exact_success_probability
from .probability import largest_delta as largest_delta
from .probability import success_probability as success_probability
from .rates import client_computation as client_computation
from .rates import communication as communication
from .rates import error_rate as error_rate
from .rates import minimax_rate as minimax_rate
from .rates import paper_rate as paper_rate
from .rates import rounds_to_floor as rounds_to_floor
from .rates import server_computation as server_computation
from .sharp import Bound as Bound
from .sharp import finite_variance_precision as finite_variance_precision
from .sharp import gaussian_precision as gaussian_precision
from .sharp import measured_precision as measured_precision
from .sharp import sharp_bound as sharp_bound
from .spectral import spectral_certificate as spectral_certificate
from .spectral import spectral_radius as spectral_radius
from .theorems import Guarantee as Guarantee
from .theorems import theorem_4 as theorem_4
from .theorems import theorem_5 as theorem_5
from .timing import TimeToTarget as TimeToTarget
from .timing import time_to_target as time_to_target
