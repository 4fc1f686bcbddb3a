"""An independent geometric median: SciPy in float64 on a different formulation."""

import numpy as np
from scipy.optimize import minimize


def objective(points, place, weights=None):
    """Weighted sum of distances, in extended precision where the machine has it."""
    offsets = np.asarray(points, np.longdouble) - np.asarray(place, np.longdouble)
    distances = np.sqrt((offsets**2).sum(axis=1))
    mass = np.ones(len(distances)) if weights is None else np.asarray(weights, np.longdouble)
    return float(mass @ distances)


def best_known_objective(points, weights=None):
    """The lowest objective that SciPy finds from several starts, data points included."""
    points = np.asarray(points, np.float64)
    mass = np.ones(len(points)) if weights is None else np.asarray(weights, np.float64)
    scale = np.abs(points).max() or 1.0
    centre = np.median(points / scale, axis=0)
    offsets = points / scale - centre
    spread = np.linalg.norm(offsets, axis=1).max() or 1.0
    offsets /= spread

    def value_and_gradient(place):
        differences = place - offsets
        distances = np.sqrt((differences**2).sum(axis=1) + 1e-300)
        return mass @ distances, (mass / distances) @ differences

    starts = [np.zeros(points.shape[1]), np.average(offsets, axis=0, weights=mass)]
    places = [minimize(value_and_gradient, s, jac=True, method="BFGS").x for s in starts]
    candidates = [(place * spread + centre) * scale for place in places] + list(points[:100])
    return min(objective(points, place, weights) for place in candidates)
