"""Where a token stands in its document, and rotary embedding.

    (a, b) -> (a cos φ - b sin φ, b cos φ + a sin φ),   φ = position * theta^(-n/N)   for the n-th of N pairs of channels

The dot product of two vectors rotated so depends on the difference of their positions only.
Su, Lu, Pan, Murtadha, Wen, Liu 2021, https://arxiv.org/abs/2104.09864. Channel n is paired with channel n + N, as in
GPT-NeoX and Llama (the paper pairs neighbours: the same up to the order of channels).

    position  B T, integers    frequency  N    cos sin  B T N    x  B T H K, K at least 2N
"""

import torch
from torch import Tensor


def document_positions(before: Tensor, length: int, reset: Tensor | None) -> Tensor:
    """Number of tokens of the same document before each token: (B, T) integers.

    before: (B,) integers, the tokens of its document that each row has read already
    length: T
    reset: (B, T) bool, True where a document begins
    """
    steps = torch.arange(length, device=before.device).expand(len(before), -1)
    if reset is None:
        return before[:, None] + steps
    # the last beginning at or before each token; the document that goes on began `before` tokens before the first
    begin = torch.where(reset, steps, -1).cummax(1).values
    return steps - torch.where(begin < 0, -before[:, None], begin)


def rotary_frequencies(pairs: int, theta: float = 10000.0, device: torch.device | None = None) -> Tensor:
    """Angle per token of each pair of channels, theta^(-n/N), from 1 down to nearly 1/theta."""
    kind = torch.float32 if device is not None and device.type == "mps" else torch.float64
    return theta ** -(torch.arange(pairs, device=device, dtype=kind) / max(pairs, 1))


def rotary_angles(position: Tensor, frequency: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of position * frequency, (B, T, N): worked out in the type of the frequencies, given in `dtype`.

    In float32 the angle of position 10^6 would be off by 0.03.
    """
    angle = position[..., None] * frequency
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first 2N channels of each head by the angles of its token; channels beyond them stay as they are.

    x: (B, T, H, K)
    cos: (B, T, N)
    sin: (B, T, N)

    Returns (B, T, H, K) in the wider of the types of x and cos.
    """
    N = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    a, b, rest = x[..., :N], x[..., N : 2 * N], x[..., 2 * N :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest.to(cos.dtype)], -1)
