"""The CPU kernels of the delta rule and of diagonal plus low rank against their definitions in float64."""

import pytest
import torch

from ostinato.kernels import cpu as kernels
from ostinato.ops.choice import backend
from ostinato.ops.delta_rule import DPLR_FORMS, FORMS, delta_rule, dplr
from tests.ops.test_delta_rule import dplr_inputs, inputs, values_and_gradients

pytestmark = pytest.mark.skipif(not kernels.works(), reason="Numba cannot be imported")

RULES = {"delta rule": (FORMS, inputs), "low rank": (DPLR_FORMS, dplr_inputs)}


def in_float(arguments):
    """float32, and the last axis of q, k, ... a slice of a wider one, as it is in mixers."""
    wide = [a if a is None else a.float() for a in arguments]
    return [torch.cat([a, a], -1)[..., : a.shape[-1]] if a is not None and a.ndim == 4 else a for a in wide]


def assert_near(found, expected):
    """To 1e-5 of the size of each output and gradient."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("kind", "K", "V"),
    [
        ("none", 64, 48),
        ("scalar", 16, 64),
        ("vector", 32, 32),
        ("vector", 16, 48),
        ("vector", 18, 9),
        ("scalar", 12, 20),
    ],
)
def test_kernel_equals_definition(rule, kind, K, V):
    """Decays from nothing to strong, -inf here and there; lengths around the 32 steps between saved states."""
    forms, make = RULES[rule]
    for T, decay in ((1, 0.1), (2, 5.0), (31, 0.0), (32, 0.1), (33, 50.0), (100, 0.1)):
        arguments = make(T, K, V, decay, kind)
        expected = values_and_gradients(forms["reference"], arguments)
        assert_near(values_and_gradients(forms["cpu"], in_float(arguments)), expected)


@pytest.mark.parametrize("rule", RULES)
def test_kernel_is_the_same_whether_or_not_a_way_back_is_saved(rule):
    forms, make = RULES[rule]
    arguments = in_float(make(T=70, K=16, V=48, kind="vector"))
    y, after, *_ = values_and_gradients(forms["cpu"], arguments)
    assert all(torch.equal(one, other) for one, other in zip(forms["cpu"](*arguments), (y, after), strict=True))


@pytest.mark.parametrize("rule", RULES)
def test_gradient_of_either_output_alone(rule):
    forms, make = RULES[rule]
    arguments = [a.requires_grad_() for a in make(T=40, K=16, V=16, kind="scalar")]
    floats = [a.detach().float().requires_grad_() for a in arguments]
    for output in (0, 1):
        found, expected = (
            torch.autograd.grad(form(*x)[output].square().sum(), x, materialize_grads=True)
            for form, x in ((forms["cpu"], floats), (forms["reference"], arguments))
        )
        assert_near(found, expected)


@pytest.mark.parametrize("rule", RULES)
def test_kernel_does_not_depend_on_threads(rule):
    forms, make = RULES[rule]
    arguments = in_float(make(T=70, K=16, V=48, kind="vector"))
    threads, results = torch.get_num_threads(), []
    for number in (1, 2):
        torch.set_num_threads(number)
        results.append(values_and_gradients(forms["cpu"], arguments))
    torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_low_rank_reads_before_a_decay_that_is_only_almost_a_reset():
    """exp(-200) is 0 in float32, yet only -inf hides the state from a."""
    q, k, v, a, b, g, S = in_float(dplr_inputs(T=5, K=16, V=16))
    for size in (-200.0, -torch.inf):
        arguments = q, k, v, a, b, torch.full_like(g, size), S
        assert_near(
            values_and_gradients(DPLR_FORMS["cpu"], arguments), values_and_gradients(DPLR_FORMS["reference"], arguments)
        )


@pytest.mark.parametrize("rule", RULES)
def test_a_token_that_is_not_a_number_spoils_no_other_head_and_nothing_before_it(rule):
    forms, make = RULES[rule]
    arguments = in_float(make(T=70, K=16, V=16, kind="scalar"))
    expected, _ = forms["cpu"](*arguments)
    arguments[2][0, 40, 1, 3] = torch.nan
    y, _ = forms["cpu"](*arguments)
    assert y[0, 40:, 1, 3].isnan().any()
    touched = torch.zeros_like(y, dtype=torch.bool)
    touched[0, 40:, 1, 3] = True
    assert torch.equal(y[~touched], expected[~touched])


def test_the_way_back_needs_few_saved_states():
    """What is saved for the way back is r and a state every 32 steps, not every state."""
    q, k, v, beta, _, S = in_float(inputs(T=320, K=16, V=16, kind="none", B=1, H=1))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        FORMS["cpu"](q.requires_grad_(), k, v, beta, None, S)
    assert sum(kept) == 320 * (16 + 16 + 16 + 1) + 320 * 16 + 10 * 16 * 16


def test_kernel_runs_where_it_suits(monkeypatch):
    ran = []
    for forms in (FORMS, DPLR_FORMS):
        for name in forms:
            monkeypatch.setitem(forms, name, lambda *a, name=name, form=forms[name]: ran.append(name) or form(*a))
    for K, V, T in ((16, 32, 5), (16, 32, 1), (16, 20, 5), (3, 16, 5)):
        delta_rule(*in_float(inputs(T, K, V)))
        dplr(*in_float(dplr_inputs(T, K, V)))
    delta_rule(*inputs(5, 16, 16))
    assert ran == ["cpu"] * 2 + ["reference"] * 2 + ["cpu"] * 2 + ["torch"] * 3


def test_kernel_says_what_it_cannot_read():
    with (
        backend("cpu"),
        pytest.raises(
            ValueError, match=r"K and V that nearly fill vectors of 16; got torch.float64 on cpu, K = 3, V = 5"
        ),
    ):
        delta_rule(*inputs())
    with (
        backend("cpu"),
        pytest.raises(
            ValueError, match=r"K and V that nearly fill vectors of 16; got torch.float32 on cpu, K = 5, V = 3"
        ),
    ):
        dplr(*in_float(dplr_inputs(K=5, V=3)))
