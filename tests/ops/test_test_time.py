"""Learning at test time: the dual form against the definition, the definition against autograd, and both against others."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, normalize
from torch.testing import assert_close

from ostinato.layers.positions import document_positions
from ostinato.ops import test_time as ops
from ostinato.ops.choice import backend
from ostinato.ops.delta_rule import delta_rule
from ostinato.state import leaves, map_state
from tests.independent import load_peer

EPS = 1e-6


def layers_of(sizes, *batch, bias=True):
    """Random layers of these sizes: (*batch, I, O) and (*batch, O)."""
    kind = dict(dtype=torch.float64)
    return tuple(
        ops.Layer(0.5 * torch.randn(*batch, i, o, **kind), 0.3 * torch.randn(*batch, o, **kind) if bias else None)
        for i, o in zip(sizes, sizes[1:])
    )


def without_gradients_at_the_beginning(state):
    """A state that can be: where a mini-batch begins, no gradients have been summed yet."""
    return state._replace(
        gradients=map_state(lambda x: x * (state.place > 0).view(-1, *[1] * (x.ndim - 1)), state.gradients)
    )


def inputs(T=9, hidden=(), norm=True, bias=True, resets=True, start=(2, 0, 3), C=4, H=2, K=3):
    """Tensors by name: rows that are at different places of their mini-batches, documents that begin inside."""
    torch.manual_seed(0)
    B, kind = len(start), dict(dtype=torch.float64)
    V = K if norm else K + 2
    sizes = [K, *hidden, V]
    place = torch.tensor(start)
    state = ops.FastWeights(*(layers_of(sizes, B, H, bias=bias) for _ in range(2)), place)
    reset = torch.rand(B, T) < 0.15 if resets else None
    return dict(
        q=torch.randn(B, T, H, K, **kind),
        k=torch.randn(B, T, H, K, **kind),
        v=torch.randn(B, T, H, V, **kind),
        eta=0.2 * torch.rand(B, T, H, **kind),
        rate=torch.rand(B, T, H, **kind),
        place=document_positions(place, T, reset) % C,
        state=without_gradients_at_the_beginning(state),
        initial=layers_of(sizes, H, bias=bias),
        mini_batch=C,
        norm=(torch.rand(H, V, **kind) + 0.5, torch.randn(H, V, **kind)) if norm else None,
        reset=reset,
    )


def run(arguments, form):
    with backend(form):
        return ops.learn_at_test_time(**arguments)


def values_and_gradients(arguments, form):
    """Every number that comes out, and the gradients with respect to every number that goes in."""
    arguments = dict(arguments)
    wanted = []

    def leaf(x):
        if not x.is_floating_point():
            return x
        wanted.append(x.clone().requires_grad_())
        return wanted[-1]

    for name, value in arguments.items():
        if name not in ("place", "mini_batch", "reset") and value is not None:
            arguments[name] = map_state(leaf, value)
    arguments["state"] = without_gradients_at_the_beginning(arguments["state"])
    y, after = run(arguments, form)
    numbers = [y, *(x for x in leaves(after) if x.is_floating_point())]
    found = torch.autograd.grad(sum(x.sin().sum() for x in numbers), wanted, allow_unused=True)
    return numbers, after.place, [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found)]


@pytest.mark.parametrize("hidden", [(), (5,), (4, 2)], ids=["linear", "mlp", "three_layers"])
@pytest.mark.parametrize(("norm", "bias"), [(True, True), (False, True), (False, False)])
@pytest.mark.parametrize("start", [(0, 0, 0), (2, 2, 2), (2, 0, 3)], ids=str)
def test_dual_form_equals_definition(hidden, norm, bias, start):
    for T in (1, 2, 4, 5, 8, 21):
        for resets in (False, True):
            arguments = inputs(T, hidden, norm, bias, resets, start)
            numbers, place, gradients = values_and_gradients(arguments, "torch")
            expected = values_and_gradients(arguments, "reference")
            assert_close((numbers, gradients), (expected[0], expected[2]), rtol=1e-6, atol=1e-8)
            assert_close(place, expected[1])


def by_autograd(arguments, C):
    """One document of one row, its inner gradients from autograd on the inner loss as the paper writes it."""
    q, k, v, eta, rate = (arguments[name] for name in ("q", "k", "v", "eta", "rate"))
    gain, shift = (part[:, None] for part in arguments["norm"])
    weights = [part[None].clone() for layer in arguments["initial"] for part in layer]

    def answer(x, weights):
        z = x[:, :, None]
        for n in range(0, len(weights), 2):
            z = (gelu(z, approximate="tanh") if n else z) @ weights[n] + weights[n + 1][:, :, None]
        return (x[:, :, None] + layer_norm(z, z.shape[-1:], eps=EPS) * gain + shift)[:, :, 0]

    outputs = []
    for t in range(q.shape[1]):
        if t % C == 0:
            start = [w.detach().requires_grad_() for w in weights]
            sums = [torch.zeros_like(w) for w in weights]
        loss = (eta[:, t, :, None] * (answer(k[:, t], start) - v[:, t]).square()).sum() / 2
        sums = [one + more for one, more in zip(sums, torch.autograd.grad(loss, start))]
        weights = [w - rate[0, t].view(1, -1, *[1] * (w.ndim - 2)) * s for w, s in zip(start, sums)]
        outputs.append(answer(q[:, t], weights).detach())
    return torch.stack(outputs, 1)


@pytest.mark.parametrize("form", sorted(ops.FORMS))
@pytest.mark.parametrize("hidden", [(), (7,)], ids=["linear", "mlp"])
def test_equals_an_inner_loop_by_autograd(form, hidden):
    arguments = inputs(T=14, hidden=hidden, resets=False, start=(0,))
    arguments["state"] = ops.FastWeights.begin(arguments["initial"], 1)
    y, _ = run(arguments, form)
    assert_close(y, by_autograd(arguments, 4), rtol=1e-8, atol=1e-10)


def test_mini_batches_of_one_without_a_norm_are_the_delta_rule():
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 70, 3, 4, dtype=torch.float64)
    v, S = torch.randn(2, 70, 3, 5, dtype=torch.float64), torch.randn(2, 3, 4, 5, dtype=torch.float64)
    k, beta = normalize(k, dim=-1), torch.rand(2, 70, 3, dtype=torch.float64)
    initial = (ops.Layer(torch.zeros(3, 4, 5, dtype=torch.float64), None),)
    state = ops.FastWeights((ops.Layer(S, None),), (ops.Layer(0 * S, None),), torch.zeros(2, dtype=torch.long))
    place, rate = torch.zeros(2, 70, dtype=torch.long), torch.ones(2, 70, 1)
    for form in ops.FORMS:
        with backend(form):
            y, after = ops.learn_at_test_time(q, k, v, beta, rate, place, state, initial, mini_batch=1)
        assert_close((y, after.weights[0].W), delta_rule(q, k, v, beta, None, S))


def test_definition_by_hand():
    """W = 0, k = v = q = 1, eta = 1/2, mini-batches of 2: both tokens of a mini-batch see the error of its beginning."""
    one = torch.ones(1, 5, 1, 1)
    initial = (ops.Layer(torch.zeros(1, 1, 1), None),)
    place = torch.tensor([[0, 1, 0, 1, 0]])
    for eta, expected in ((0.5, [0.5, 1.0, 1.0, 1.0, 1.0]), (0.25, [0.25, 0.5, 0.625, 0.75, 0.8125])):
        y, after = ops.learn_at_test_time(
            one,
            one,
            one,
            eta * one[..., 0],
            one[..., 0],
            place,
            ops.FastWeights.begin(initial, 1),
            initial,
            mini_batch=2,
        )
        assert_close(y.flatten(), torch.tensor(expected))
        assert after.place.item() == 1


@pytest.mark.parametrize("hidden", [(), (2,)], ids=["linear", "mlp"])
def test_gradients_against_finite_differences(hidden):
    arguments = inputs(T=5, hidden=hidden, start=(1, 3), H=1, K=2)
    names = ("q", "k", "v", "eta", "rate")

    def read(*tensors):
        y, after = run({**arguments, **dict(zip(names, tensors))}, "torch")
        return y, after.weights[0].W, after.gradients[-1].b

    assert torch.autograd.gradcheck(read, [arguments[name].clone().requires_grad_() for name in names])


def test_a_mini_batch_belongs_to_the_document_not_to_the_call():
    arguments = inputs(T=23, hidden=(5,))
    expected, expected_state = run(arguments, "torch")
    for cuts in ((7,), (1, 2, 12), (4, 8, 20)):
        outputs, state = [], arguments["state"]
        for i, j in zip((0, *cuts), (*cuts, 23)):
            piece = {name: arguments[name][:, i:j] for name in ("q", "k", "v", "eta", "rate", "place", "reset")}
            y, state = run({**arguments, **piece, "state": state}, "torch")
            outputs.append(y)
        assert_close(torch.cat(outputs, 1), expected)
        assert_close(list(leaves(state)), list(leaves(expected_state)))


def test_equals_the_naive_ttt_linear_of_flash_linear_attention(monkeypatch):
    """Theirs adds the norm to z where the paper's adds it to q, and has one rate for each token that asks."""
    naive = load_peer("fla/ops/ttt/naive.py").chunk_ttt_linear_ref
    monkeypatch.setattr(ops._Norm, "output", lambda norm, q, z: z)
    torch.manual_seed(0)
    B, T, H, K, C = 2, 32, 3, 8, 8
    q, k, v = torch.randn(3, B, T, H, K)
    rate, gain, shift = torch.rand(B, T, H), torch.rand(H, K) + 0.5, torch.randn(H, K)
    W, b = 0.2 * torch.randn(H, K, K), 0.1 * torch.randn(H, K)
    state = ops.FastWeights.begin((ops.Layer(W, b),), B)
    expected, theirs_W, theirs_b = naive(
        q.clone(), k, v, gain, shift, rate[..., None], mini_batch_size=C, eps=EPS, output_final_state=True,
        initial_state=state.weights[0].W.clone(), initial_state_bias=state.weights[0].b[:, :, None].clone(),
    )  # fmt: skip
    place = torch.arange(T).expand(B, -1) % C
    z, after = ops.learn_at_test_time(
        q * K**-0.5, k, v, torch.ones(B, T, H), rate, place, state, (ops.Layer(W, b),), mini_batch=C, norm=(gain, shift)
    )
    y = z + gain * layer_norm(z, (K,), eps=EPS) + shift
    assert_close(y, expected, rtol=1e-4, atol=1e-4)
    assert_close(after.weights[0].W, theirs_W, rtol=1e-4, atol=1e-4)
    assert_close(after.weights[0].b, theirs_b[:, :, 0], rtol=1e-4, atol=1e-4)
