"""An independent geometric median: SciPy in float64 on a different formulation."""

import numpy as np
from scipy.optimize import minimize


def objective(points, position, weights=None):
    """Weighted sum of distances, in extended precision where the machine has it."""
    offsets = np.asarray(points, np.longdouble) - np.asarray(position, np.longdouble)
    mass = np.ones(len(offsets)) if weights is None else np.asarray(weights, np.longdouble)
    return float(mass @ np.sqrt((offsets**2).sum(axis=1)))


def best_known_objective(points, weights=None):
    """The lowest objective that SciPy finds from several starts, data points included."""
    points = np.asarray(points, np.float64)
    mass = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    scale = np.abs(points).max() or 1.0
    centre = np.median(points / scale, axis=0)
    offsets = points / scale - centre
    spread = np.linalg.norm(offsets, axis=1).max() or 1.0
    offsets /= spread

    def value_and_gradient(position):
        differences = position - offsets
        distances = np.sqrt((differences**2).sum(axis=1) + 1e-300)
        return mass @ distances, (mass / distances) @ differences

    starts = [np.zeros(points.shape[1]), np.average(offsets, axis=0, weights=mass)]
    found = [minimize(value_and_gradient, s, jac=True, method="BFGS").x for s in starts]
    candidates = [*((position * spread + centre) * scale for position in found), *points[:100]]
    return min(objective(points, position, weights) for position in candidates)
