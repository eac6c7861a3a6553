"""What published models ask of the language model: norms, parallel blocks, positions, scales and caps."""

import pytest
import torch
from torch.nn.functional import cross_entropy, gelu, layer_norm, silu
from torch.testing import assert_close

from ostinato import create
from ostinato.layers.mlp import make_mlp
from ostinato.layers.norms import OffsetRMSNorm, RMSNorm

TOKENS = torch.arange(12).view(2, 6) % 11


def model(**options):
    torch.manual_seed(0)
    return create("model:language_model", vocab_size=11, dim=8, layers=1, pattern=[{"gla": {"heads": 2}}], **options)


def test_a_capped_model_is_trained_on_its_capped_logits():
    capped, plain = model(soft_cap=0.05), model()
    logits = capped(TOKENS)[0]
    assert logits.abs().max() < 0.05
    assert_close(logits, 0.05 * torch.tanh(plain(TOKENS)[0] / 0.05))
    assert_close(capped.loss(TOKENS), cross_entropy(logits[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()))


def test_a_parallel_block_adds_both_to_what_both_read():
    block = model(parallel=True, norm="layer").stack.layers[0]
    x = torch.randn(2, 6, 8)
    y = x + block.mixer(block.mixer_norm(x))[0] + block.mlp(block.mlp_norm(x))
    assert_close(block(x)[0], y)


def test_embeddings_are_scaled_placed_and_normalised():
    ours = model(embedding_scale=3.0, positions=20, embedding_norm=True, norm="layer", eps=0.5)
    place = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
    expected = layer_norm(3 * ours.embedding(TOKENS) + ours.positions(place), (8,), eps=0.5)
    reset = torch.zeros(2, 6, dtype=torch.bool)
    reset[0, 3] = True
    x, after = ours.embedded(TOKENS, None, reset)
    assert_close(x, expected)
    assert after.tolist() == [3, 6]


def test_offset_norms_begin_as_plain_ones():
    x = torch.randn(3, 8)
    assert_close(OffsetRMSNorm(8)(x), RMSNorm(8)(x))
    norm = OffsetRMSNorm(8)
    torch.nn.init.ones_(norm.weight)
    assert_close(norm(x), 2 * RMSNorm(8)(x))


def test_channel_mixers_with_arguments():
    mlp = make_mlp({"gelu_tanh": {"hidden": 5, "bias": True}}, 8)
    x = torch.randn(3, 8)
    assert_close(mlp(x), mlp.project_out(gelu(mlp.project_in(x), approximate="tanh")))
    assert mlp.project_in.bias.shape == (5,)
    assert make_mlp("swiglu", 8).project_out.in_features == 24


@pytest.mark.parametrize("tokens", [2, 40])
def test_experts_are_weighed_by_the_largest_of_their_probabilities(tokens):
    """By the equation, over all experts; few tokens and many go different ways."""
    mlp = make_mlp({"experts": {"hidden": 5, "experts": 6, "active": 2, "shared": 3}}, 8)
    x = torch.randn(1, tokens, 8)
    p = mlp.router(x).softmax(-1)
    p = torch.where(p >= p.topk(2).values[..., -1:], p, 0)
    gate, up = torch.einsum("btd,efd->btef", x, mlp.project_in).chunk(2, -1)
    expected = torch.einsum("btef,edf,bte->btd", silu(gate) * up, mlp.project_out, p / p.sum(-1, keepdim=True))
    expected = expected + torch.sigmoid(mlp.share(x)) * mlp.shared(x)
    y = mlp(x)
    assert_close(y, expected)
    y.sum().backward()
    assert mlp.router.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (dict(norm="batch"), "norm is one of rms, offset_rms, layer; got 'batch'"),
        (dict(mlp={"gelu": {"width": 3}}), "the arguments of mlp gelu are written as .* expansion, hidden, bias; got"),
        (dict(mlp={"selu": None}), "mlp is one of swiglu, geglu, gelu, gelu_tanh, relu, experts or null; got 'selu'"),
        (dict(mlp={"gelu": 3}), "the arguments of mlp gelu are written as"),
        (
            dict(mlp={"experts": {"experts": 3, "active": 4}}),
            "active is how many of the 3 experts a token goes to; got 4",
        ),
        (dict(order="behind"), "order is where the norms are, before or after; got 'behind'"),
        (dict(shares=[1.0, 2.0]), "shares are 4 numbers"),
        (dict(parallel=True, order="after"), "a parallel block has its norms before"),
    ],
)
def test_what_cannot_be_built_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        model(**wrong)
