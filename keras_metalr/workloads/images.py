"""What the workloads of images have in common."""

import numpy as np


def block_means(images: np.ndarray, side: int) -> np.ndarray:
    """Make images smaller: the mean of each square of `side` pixels a side.

    Args:
        images: Float array `(count, height, width, channels)`, height and width
            multiples of `side`.
        side: Integer (>= 1).

    Returns:
        Array `(count, height / side, width / side, channels)`.
    """
    count, height, width, channels = images.shape
    shape = (count, height // side, side, width // side, side, channels)
    return images.reshape(shape).mean(axis=(2, 4))
