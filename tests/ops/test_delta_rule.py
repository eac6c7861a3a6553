"""Every form of the delta rule and of its diagonal-plus-low-rank relative against the definition and against others' code."""

import pytest
import torch
from torch.nn.functional import normalize
from torch.testing import assert_close

from ostinato.ops.choice import backend
from ostinato.ops.delta_rule import DPLR_FORMS, FORMS, delta_rule, dplr
from tests.independent import load_peer

LENGTHS = [1, 2, 15, 16, 17, 63, 64, 65, 150]


def inputs(T=5, K=3, V=5, decay=0.1, kind="vector", B=2, H=3):
    """q, k, v, beta, g, S: K unlike V, a state from before, beta up to 2, and channels that forget now and then."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(B, T, H, n, dtype=torch.float64) for n in (K, K, V))
    beta = 2 * torch.rand(B, T, H, dtype=torch.float64)
    shape = dict(vector=(B, T, H, K), scalar=(B, T, H), none=())[kind]
    forgets = torch.rand(shape) < 0.1
    g = (-decay * torch.rand(shape, dtype=torch.float64)).masked_fill(forgets, -torch.inf) if shape else None
    return [q, normalize(k, dim=-1), v, beta, g, torch.randn(B, H, K, V, dtype=torch.float64)]


def dplr_inputs(*arguments, **more):
    """q, k, v, a, b, g, S, with a b^T that does not grow."""
    q, k, v, beta, g, S = inputs(*arguments, **more)
    a, b = (normalize(torch.randn_like(k), dim=-1) for _ in "ab")
    return [q, k, v, a, 0.5 * b * beta[..., None], g, S]


def values_and_gradients(form, arguments):
    """Values, and gradients of a sum of them with fixed weights."""
    arguments = [a if a is None else a.clone().requires_grad_() for a in arguments]
    results = form(*arguments)
    loss = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in results)
    return *results, *torch.autograd.grad(loss, [a for a in arguments if a is not None])


@pytest.mark.parametrize("form", sorted(FORMS.keys() - {"reference", "cpu"}))
@pytest.mark.parametrize("kind", ["none", "scalar", "vector"])
@pytest.mark.parametrize("decay", [0.0, 0.1, 50.0])
def test_form_equals_definition(form, kind, decay):
    for T in LENGTHS:
        for K, V in ((4, 4), (3, 5)):
            arguments = inputs(T, K, V, decay, kind)
            expected = values_and_gradients(FORMS["reference"], arguments)
            assert_close(values_and_gradients(FORMS[form], arguments), expected)


@pytest.mark.parametrize("form", sorted(DPLR_FORMS.keys() - {"reference", "cpu"}))
@pytest.mark.parametrize("kind", ["none", "scalar", "vector"])
@pytest.mark.parametrize("decay", [0.0, 0.1, 50.0])
def test_dplr_form_equals_definition(form, kind, decay):
    for T in LENGTHS:
        for K, V in ((4, 4), (3, 5)):
            arguments = dplr_inputs(T, K, V, decay, kind)
            expected = values_and_gradients(DPLR_FORMS["reference"], arguments)
            assert_close(values_and_gradients(DPLR_FORMS[form], arguments), expected)


@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_gradients_against_finite_differences(kind):
    for form, arguments in (
        (FORMS["torch"], inputs(T=5, K=2, V=3, kind=kind, B=1, H=1)),
        (DPLR_FORMS["torch"], dplr_inputs(T=5, K=2, V=3, kind=kind, B=1, H=1)),
    ):
        arguments[-2] = arguments[-2].clamp(min=-3) - 0.1
        assert torch.autograd.gradcheck(form, [a.clone().requires_grad_() for a in arguments])


def test_definition_by_hand():
    """One key, one value, beta 1/2: each token removes half of what is missing, after the memory was halved."""
    one = torch.ones(1, 3, 1, 1)
    half = torch.full((1, 3, 1), 0.5)
    y, _ = FORMS["reference"](one, one, one, half, None, torch.zeros(1, 1, 1, 1))
    assert_close(y.flatten(), torch.tensor([0.5, 0.75, 0.875]))
    y, _ = FORMS["reference"](one, one, one, half, half.log(), torch.zeros(1, 1, 1, 1))
    assert_close(y.flatten(), torch.tensor([0.5, 0.625, 0.65625]))


def test_dplr_by_hand():
    """S_t = (1/2 + 2 * 1/4) S_{t-1} + 3: b writes a quarter of what a reads twice, before it decays."""
    one = torch.ones(1, 3, 1, 1)
    y, _ = DPLR_FORMS["reference"](one, 3 * one, one, 2 * one, one / 4, (one / 2).log(), torch.zeros(1, 1, 1, 1))
    assert_close(y.flatten(), torch.tensor([3.0, 6.0, 9.0]))


def test_dplr_reads_with_a_and_writes_with_b():
    """a and b are not interchangeable: the letters are those of RWKV-7."""
    S = torch.tensor([[2.0], [5.0]])[None, None]
    a, b, zero = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.zeros(1, 1, 1, 2)
    _, after = dplr(zero, zero, zero[..., :1], a.view_as(zero), b.view_as(zero), None, S)
    assert_close(after[0, 0, :, 0], torch.tensor([2.0, 7.0]))


@pytest.mark.parametrize("kind", ["none", "scalar", "vector"])
def test_the_delta_rule_is_diagonal_plus_low_rank(kind):
    q, k, v, beta, g, S = inputs(T=70, kind=kind)
    decayed = k if g is None else k * (g if kind == "vector" else g[..., None]).exp()
    b = beta[..., None] * k
    assert_close(dplr(q, b, v, -decayed, b, g, S), delta_rule(q, k, v, beta, g, S))


@pytest.mark.parametrize("zero", ["scalar", "vector"])
def test_a_decay_of_one_is_no_decay(zero):
    q, k, v, beta, g, S = inputs(T=70, kind=zero)
    assert_close(delta_rule(q, k, v, beta, torch.zeros_like(g), S), delta_rule(q, k, v, beta, None, S))


def test_beta_one_replaces_what_the_key_recalls():
    torch.manual_seed(0)
    keys = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    order = torch.tensor([0, 1, 2, 0, 3, 1, 0])
    k = keys[order][None, :, None]
    v = torch.randn(1, 7, 1, 4, dtype=torch.float64)
    _, S = delta_rule(k, k, v, torch.ones(1, 7, 1), None, torch.zeros(1, 1, 8, 4, dtype=torch.float64))
    recalled = keys[:4] @ S[0, 0]
    assert_close(recalled, v[0, [6, 5, 2, 4], 0], msg="each key recalls the last value written under it")


def test_negative_eigenvalues_count_parity():
    """With beta 2 a token reflects the memory along its key: after any bits, the sign of S says how many were 1."""
    torch.manual_seed(0)
    bits = torch.randint(2, (3, 200, 1))
    k = torch.ones(3, 200, 1, 1)
    y, _ = delta_rule(k, k, torch.zeros_like(k), 2.0 * bits, None, torch.ones(3, 1, 1, 1))
    assert_close(y[..., 0], 1.0 - 2 * (bits.cumsum(1) % 2))


def test_keys_that_are_all_alike_keep_their_digits():
    """(I + A)^-1 as a series would have terms like 10^18 here; block by block nothing is larger than 1."""
    torch.manual_seed(0)
    k = normalize(torch.randn(1, 1, 1, 16), dim=-1).expand(1, 128, 1, 16)
    v, S = torch.randn(1, 128, 1, 4), torch.randn(1, 1, 16, 4)
    beta = torch.ones(1, 128, 1)
    expected, expected_S = FORMS["reference"](*(x.double() for x in (k, k, v, beta)), None, S.double())
    y, after = delta_rule(k, k, v, beta, None, S)
    assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    assert_close(after.double(), expected_S, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_a_reset_forgets_exactly(kind):
    q, k, v, beta, g, S = inputs(T=100, kind=kind)
    g = g.clamp(min=-1)
    g[:, 70] = -torch.inf
    y, after = delta_rule(q, k, v, beta, g, S)
    part = [x[:, 70:] for x in (q, k, v, beta, g)]
    assert_close((y[:, 70:], after), delta_rule(*part, torch.zeros_like(S)))
    more = dplr_inputs(T=100, kind=kind)
    more[5] = g
    y, after = dplr(*more)
    assert_close((y[:, 70:], after), dplr(*(x[:, 70:] for x in more[:-1]), torch.zeros_like(S)))


def test_backend_can_be_asked_for():
    arguments, more = inputs(), dplr_inputs()
    with backend("reference"):
        assert_close(delta_rule(*arguments), FORMS["reference"](*arguments), rtol=0, atol=0)
        assert_close(dplr(*more), DPLR_FORMS["reference"](*more), rtol=0, atol=0)
    with backend("cuda"), pytest.raises(ValueError, match="no form 'cuda' here; it has: reference, torch"):
        delta_rule(*arguments)


def in_float(T, kind):
    """Arguments for others' functions, which work in float32 and scale q themselves; and q scaled for ours."""
    q, k, v, beta, g, S = (a if a is None else a.float() for a in inputs(T, kind=kind, decay=2.0))
    g = None if g is None else g.clamp(min=-20.0)
    return (q, k, v, beta, g, S), (q * q.shape[-1] ** -0.5, k, v, beta, g, S)


def assert_same(found, expected):
    assert_close(found, tuple(expected), rtol=1e-4, atol=1e-5)


def test_equals_the_naive_delta_rule_of_flash_linear_attention():
    naive = load_peer("fla/ops/delta_rule/naive.py")
    (q, k, v, beta, _, S), ours = in_float(64, "none")
    heads_first = [x.transpose(1, 2) for x in (q, k, v, beta)]
    y, after = naive.delta_rule_recurrence(*heads_first, initial_state=S)
    assert_same(delta_rule(*ours), (y.transpose(1, 2), after))
    y, after = naive.delta_rule_chunkwise(*heads_first)
    assert_same(delta_rule(*ours[:-1], torch.zeros_like(S)), (y.transpose(1, 2), after))


def test_equals_the_naive_gated_delta_rule_of_flash_linear_attention():
    naive = load_peer("fla/ops/gated_delta_rule/naive.py")
    (q, k, v, beta, g, S), ours = in_float(100, "scalar")
    more = dict(initial_state=S, output_final_state=True)
    assert_same(delta_rule(*ours), naive.naive_recurrent_gated_delta_rule(q, k, v, beta, g, **more))
    assert_same(delta_rule(*ours), naive.naive_chunk_gated_delta_rule(q, k, v, g, beta, **more))


def test_equals_the_naive_kda_of_flash_linear_attention():
    naive = load_peer("fla/ops/kda/naive.py")
    (q, k, v, beta, g, S), ours = in_float(128, "vector")
    more = dict(initial_state=S, output_final_state=True)
    assert_same(delta_rule(*ours), naive.naive_recurrent_kda(q, k, v, g, beta, **more))


def test_equals_the_naive_dplr_of_flash_linear_attention():
    naive = load_peer("fla/ops/generalized_delta_rule/dplr/naive.py")
    q, k, v, a, b, g, S = (x.float() for x in dplr_inputs(64, decay=2.0))
    g = g.clamp(min=-20.0)
    y, after = naive.dplr_recurrence(*(x.transpose(1, 2) for x in (q, k, v, a, b, g)), initial_state=S)
    assert_same(dplr(q * q.shape[-1] ** -0.5, k, v, a, b, g, S), (y.transpose(1, 2), after))
    y, after = naive.dplr_chunkwise(*(x.transpose(1, 2) for x in (q, k, v, a, b, g)), initial_state=S)
    assert_same(dplr(q * q.shape[-1] ** -0.5, k, v, a, b, g, S), (y.transpose(1, 2), after))


def test_equals_the_gated_delta_rule_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.qwen3_next import modeling_qwen3_next as qwen

    (q, k, v, beta, g, S), ours = in_float(100, "scalar")
    more = dict(g=g, beta=beta, initial_state=S, output_final_state=True)
    assert_same(delta_rule(*ours), qwen.torch_recurrent_gated_delta_rule(q, k, v, **more))
    assert_same(delta_rule(*ours), qwen.torch_chunk_gated_delta_rule(q, k, v, **more))


def test_autocast_reaches_neither_the_state_nor_its_gradients():
    q, k, v, beta, g, S = (a.float().requires_grad_() for a in inputs(T=70, kind="scalar"))

    def gradients(results):
        return torch.autograd.grad(sum(x.sum() for x in results), [q, k, v, beta, g, S])

    expected = delta_rule(q, k, v, beta, g, S)
    expected_gradients = gradients(expected)
    with torch.autocast("cpu", torch.bfloat16):
        results = delta_rule(q, k, v, beta, g, S)
        gradients(delta_rule(q, k, v, beta, g, S))  # not advised there, but it runs
    assert_close((results, gradients(results)), (expected, expected_gradients))
