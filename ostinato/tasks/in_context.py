"""Learning in context: examples of a function that is new in every problem; and the best predictors.

    regression   x_1, y_1, ..., x_n, y_n     y_i = w x_i + noise,  w ~ N(0, I/d)          predict y_i at x_i

    ridge         w = (X^T X + c I)^-1 X^T y: with c = d noise^2 the mean of all w that may be, given what was seen

Garg, Tsipras, Liang, Valiant 2022, https://arxiv.org/abs/2208.01066; Akyurek et al. 2022,
https://arxiv.org/abs/2211.15661.
"""

import torch
from torch import Generator, Tensor

from ostinato.registry import register
from ostinato.tasks.task import Batch, NumberTask


def ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    """Predictions of y_i (B, N) from the pairs before it and from x_i (B, N, D) by ridge regression; 0 for the first."""
    moments = (x[..., :, None] * x[..., None, :]).cumsum(1)
    products = (x * y[..., None]).cumsum(1)
    moments, products = moments.roll(1, 1), products.roll(1, 1)
    moments[:, 0], products[:, 0] = 0, 0
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    weights = torch.linalg.solve(moments + penalty * eye, products)
    return (weights * x).sum(-1)


def least_squares(x: Tensor, y: Tensor) -> Tensor:
    """The same by the shortest weights with the least squares."""
    B, N, _ = x.shape
    found = [torch.zeros(B, dtype=x.dtype)]
    for n in range(1, N):
        weights = torch.linalg.pinv(x[:, :n]) @ y[:, :n, None]
        found.append((x[:, n] * weights[..., 0]).sum(-1))
    return torch.stack(found, 1)


def gradient_descent(x: Tensor, y: Tensor, rate: float) -> Tensor:
    """The same by one step of gradient descent from w = 0 on the mean of (w x - y)^2 / 2."""
    products = (x * y[..., None]).cumsum(1).roll(1, 1)
    products[:, 0] = 0
    seen = torch.arange(x.shape[1], dtype=x.dtype).clamp(min=1)
    return rate * (products * x).sum(-1) / seen


@register(
    "task:in_context_regression",
    paper=("icl_linear_models", "icl_architectures", "gated_rnn_attention", "learned_task_vector"),
)
class InContextRegression(NumberTask):
    """Linear functions, a new one in every problem: predict each y from its x and the pairs before.

    length: number of pairs
    dim: width of x
    noise: standard deviation of what is added to y, whose own is about 1
    """

    measured_in = "pairs"
    shortest = 2

    def __init__(self, length: int = 24, *, dim: int = 5, noise: float = 0.1):
        self.dim, self.noise = dim, noise
        self.width = dim + 1
        super().__init__(length)

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        x = torch.randn(size, length, self.dim, generator=generator)
        w = torch.randn(size, self.dim, generator=generator) / self.dim**0.5
        y = torch.einsum("bnd,bd->bn", x, w) + self.noise * torch.randn(size, length, generator=generator)
        inputs = torch.zeros(size, length, 2, self.width)
        inputs[:, :, 0, : self.dim], inputs[:, :, 1, self.dim] = x, y
        targets = torch.zeros(size, length, 2, 1)
        targets[:, :, 0, 0] = y
        scored = torch.tensor([True, False]).repeat(size, length)
        return Batch(inputs.flatten(1, 2), targets.flatten(1, 2), scored)

    def pairs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """All x (B, N, D) and y (B, N) of the problems, in float64."""
        inputs = batch.inputs.double()
        return inputs[:, ::2, : self.dim], inputs[:, 1::2, self.dim]

    def oracle(self, batch: Batch) -> Tensor:
        """Ridge regression with the penalty that is best on average."""
        found = torch.zeros(*batch.inputs.shape[:2], 1, dtype=torch.float64)
        found[:, ::2, 0] = ridge(*self.pairs(batch), max(self.dim * self.noise**2, 1e-9))
        return found
