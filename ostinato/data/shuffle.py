"""Orders and choices that depend on numbers alone: the same on every machine, in every version of every library.

    mix(x): the output function of SplitMix64, a bijection of 64-bit numbers whose values look random

Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators". A generator of numpy would do, but its
streams may change between versions, and a resumed run must find its documents in the order that it left them in.
"""

import numpy as np

GOLDEN = 0x9E3779B97F4A7C15


def mix(values: np.ndarray) -> np.ndarray:
    """Scramble numbers: uint64 to uint64, different numbers to different numbers."""
    z = values.astype(np.uint64) + np.uint64(GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def key(*numbers: int) -> np.ndarray:
    """One 64-bit number (in an array of one) that stands for a sequence of integers."""
    total = np.zeros(1, np.uint64)
    for number in numbers:
        total = mix(total ^ np.array([number % 2**64], np.uint64))
    return total


def permutation(size: int, *numbers: int) -> np.ndarray:
    """The numbers 0 to size - 1 in an order that the other numbers (a seed, an epoch, ...) decide."""
    # mix is a bijection, so no two of these are equal and the order is unique.
    return np.argsort(mix(np.arange(size, dtype=np.uint64) + key(*numbers)))
