"""The k-means clustering that scikit-learn's KMeans makes with one random start, as AdaMSS uses it."""

import numpy as np
import torch

_TOLERANCE = 1e-4  # of the mean variance: a smaller move of the centres ends it


def clustered(points: torch.Tensor, count: int, *, seed: int, most: int) -> torch.Tensor | None:
    """Return the cluster of each row of `points` [rows, dimensions], None where a cluster ran empty on the way.

    The first centres are `count` rows that numpy's RandomState chooses from a seed; then at most `most` steps of
    Lloyd's algorithm, in float32.
    """
    X = points.float() - points.float().mean(dim=0)
    chosen = np.random.RandomState(seed).choice(len(X), size=count, replace=False, p=np.full(len(X), 1 / len(X)))
    centres, labels = X[torch.from_numpy(chosen)], None
    limit = _TOLERANCE * float(X.var(dim=0, correction=0).mean())
    for _ in range(most):
        found = _nearest(X, centres)
        sizes = found.bincount(minlength=count)
        if bool((sizes == 0).any()):
            return None
        moved = torch.zeros_like(centres).index_add(0, found, X) / sizes[:, None]
        if labels is not None and torch.equal(found, labels):
            return labels
        shift, centres, labels = float(((moved - centres) ** 2).sum()), moved, found
        if shift <= limit:
            break
    return _nearest(X, centres)


def _nearest(X: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    return ((centres**2).sum(dim=1) - 2 * X @ centres.T).argmin(dim=1)
