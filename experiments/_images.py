"""Smaller images, for studies that train many networks on them."""

import numpy as np


def pooled(leaf: np.ndarray) -> np.ndarray:
    """Return images of 14 x 14 pixels, each the mean of 2 x 2; labels as they are."""
    if leaf.ndim < 2:
        return leaf
    return leaf.reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196)
