"""The ranker equals its definition, finds what it should, and says so in the order of time."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.ops.choice import backend
from ostinato.ops.maxsim_ranker import FORMS, maxsim_ranker


def parts(N=7, C=5, D=6, B=2):
    return torch.randn(B, N, C, D, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("k", [1, 3, 9])
def test_forms_agree(k):
    x, asking = parts(), parts().flip(1)[:, :4]
    with backend("reference"):
        expected = maxsim_ranker(asking, x, k, before=[0, 1, 4, 7])
    numbers, weights = maxsim_ranker(asking, x, k, before=[0, 1, 4, 7])
    assert_close(numbers, expected[0])
    assert_close(weights, expected[1])


@pytest.mark.parametrize("form", FORMS)
def test_scores_by_hand(form):
    """Tokens along the axes: cosines are 0, 1 and sqrt(1/2)."""
    x, y, both = (torch.tensor(v).double() for v in ([2.0, 0], [0, 3.0], [1.0, 1.0]))
    past = torch.stack([torch.stack(pair) for pair in [(x, x), (y, both), (x, y), (x, both)]])[None]
    asking = torch.stack([x, y])[None, None]
    with backend(form):
        numbers, weights = maxsim_ranker(asking, past, 3, before=[4])
    # scores 1 + 0, sqrt(1/2) + 1, 1 + 1 and 1 + sqrt(1/2): the second and the last are even
    assert numbers.tolist() == [[[1, 2, 3]]]
    middle = (1 + 0.5**0.5) / 2
    assert_close(weights, torch.tensor([[[middle, 1, middle]]]).double())
    assert maxsim_ranker(asking, past, 2, before=[4])[0].tolist() == [[[2, 3]]]  # of equals, the later one


def test_what_is_missing_stands_in_front_with_weight_0():
    numbers, weights = maxsim_ranker(parts()[:, 2:4], parts(), 4, before=[0, 2])
    assert numbers[:, 0].tolist() == [[-1] * 4] * 2
    assert numbers[:, 1].tolist() == [[-1, -1, 0, 1]] * 2
    assert weights[:, 0].count_nonzero() == weights[:, 1, :2].count_nonzero() == 0
    assert_close(weights[:, 1].amax(-1), torch.ones(2).double())


def test_weights_have_gradients_and_the_choice_has_none():
    x = parts(4, 3, 4, 1).requires_grad_()
    before = [3]
    assert torch.autograd.gradcheck(lambda a: maxsim_ranker(a[:, 3:], a, 2, before=before)[1], (x,))


def test_length_of_tokens_does_not_matter_and_0_is_no_direction():
    x, scale = parts(), torch.rand(2, 7, 5, 1, generator=torch.Generator().manual_seed(2)).double() + 0.1
    assert_close(
        maxsim_ranker(x, x * scale, 3, before=[0, 1, 2, 3, 4, 5, 6]), maxsim_ranker(x, x, 3, before=[*range(7)])
    )
    x = x.requires_grad_()
    _, weights = maxsim_ranker(x[:, :1], x * 0, 3, before=[7])
    weights.sum().backward()
    assert weights.count_nonzero() == 0
    assert x.grad.isfinite().all()


def test_bad_questions_are_refused():
    with pytest.raises(ValueError, match="parts are as those that ask"):
        maxsim_ranker(parts(C=4), parts(), 1, before=[0] * 7)
    with pytest.raises(ValueError, match="before 7 numbers from 0 to 7"):
        maxsim_ranker(parts(), parts(), 1, before=[8] * 7)
