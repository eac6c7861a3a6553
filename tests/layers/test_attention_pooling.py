"""Pooling by attention: what it reduces to, what it counts, and what it finds that a mean does not."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ostinato.layers.attention_pooling import ConditionedAttentionPooling, LowRankAttentionPooling
from ostinato.registry import create


def build(kind, *arguments, **keywords):
    torch.manual_seed(0)
    return kind(*arguments, **keywords).double()


def tokens(T=7, D=6, B=3):
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(1)).double()


def features(T=7, F=4):
    return torch.randn(3, T, F, generator=torch.Generator().manual_seed(2)).double()


MASK = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]


def test_full_rank_is_the_bilinear_score():
    """Without the tanh, scores of the heads sum up to c^T (P Q^T) h."""
    head, h = build(LowRankAttentionPooling, 6, heads=6, bounded=False), tokens()
    W = head.project_context.weight.T @ head.project_token.weight
    bilinear = h @ (head.context @ W)
    scores = head.weights(h).log()
    scores = scores - scores[:, :1]  # a softmax keeps differences
    assert_close(scores.sum(-1), bilinear - bilinear[:, :1])


def test_low_rank_pooling_by_its_equations():
    head, h = build(LowRankAttentionPooling, 6, heads=3), tokens()
    found = []
    for p, q in zip(head.project_context.weight, head.project_token.weight, strict=True):
        a = torch.tanh((p @ head.context) * (h @ q)).softmax(1)
        found.append((a[..., None] * h).sum(1))
    assert_close(head(h), torch.cat(found, -1))
    assert sum(p.numel() for p in head.parameters()) == 2 * 6 * 3 + 6


def test_a_document_may_be_asked_with_a_vector_of_its_own():
    head, h = build(LowRankAttentionPooling, 6, heads=3), tokens()
    assert_close(head(h, context=head.context.expand(3, -1)), head(h))
    assert not torch.allclose(head(h, context=h.mean(1)), head(h))


@pytest.mark.parametrize("condition", [None, "concat", "gate", "affine", "none"])
def test_masked_tokens_have_no_weight(condition):
    if condition is None:
        head, given = build(LowRankAttentionPooling, 6, heads=3), ()
    else:
        head, given = build(ConditionedAttentionPooling, 6, 4, condition=condition), (features(),)
    weights = head.weights(tokens(), *given, mask=MASK)
    assert_close(weights.sum(1), torch.ones_like(weights[:, 0]))
    assert weights[~MASK].count_nonzero() == 0
    alone = head(tokens()[1:2, :4], *(part[1:2, :4] for part in given))
    assert_close(head(tokens(), *given, mask=MASK)[1:2], alone)
    h = tokens().requires_grad_()
    nothing = head(h, *given, mask=torch.zeros_like(MASK))
    nothing.sum().backward()
    assert nothing.count_nonzero() == 0
    assert h.grad.isfinite().all()


def test_features_that_say_nothing_leave_plain_pooling():
    h, c = tokens(), features()
    plain = build(ConditionedAttentionPooling, 6, 4, condition="none")
    by_hand = (torch.tanh(h @ plain.project_token.weight.T + plain.project_token.bias) @ plain.score.weight[0]).softmax(
        1
    )
    assert_close(plain(h), (by_hand[..., None] * h).sum(1))

    concat = build(ConditionedAttentionPooling, 6, 4, condition="concat")
    concat.load_state_dict(plain.state_dict(), strict=False)
    assert_close(concat(h, c * 0), plain(h))
    assert not torch.allclose(concat(h, c), plain(h))

    linear = ((h @ plain.score.weight[0]).softmax(1)[..., None] * h).sum(1)
    for condition, weight in (("gate", [100.0] * 6), ("affine", [1.0] * 6 + [0.0] * 6)):
        head = build(ConditionedAttentionPooling, 6, 4, condition=condition)
        head.score.load_state_dict(plain.score.state_dict())
        assert not torch.allclose(head(h, c), linear)
        with torch.no_grad():
            head.project_features.weight.zero_()
            head.project_features.bias.copy_(torch.tensor(weight))
        assert_close(head(h, c), linear)


def learned(pool, inputs, label, steps=150):
    """Accuracy of a linear classifier on what is pooled, both trained."""
    pooled = pool(*inputs).shape[-1]
    torch.manual_seed(0)
    classify = nn.Linear(pooled, 2)
    optimizer = torch.optim.Adam([*getattr(pool, "parameters", list)(), *classify.parameters()], 3e-2)
    half = len(label) // 2
    for _ in range(steps):
        optimizer.zero_grad()
        y = classify(pool(*(part[:half] for part in inputs)))
        nn.functional.cross_entropy(y, label[:half]).backward()
        optimizer.step()
    with torch.no_grad():
        y = classify(pool(*(part[half:] for part in inputs)))
    return (y.argmax(-1) == label[half:]).float().mean().item()


def marked(B=400, T=8):
    """Tokens of which one is marked; its first channel says the class."""
    torch.manual_seed(3)
    h, at = torch.randn(B, T, 5), torch.randint(T, (B,))
    mark = torch.nn.functional.one_hot(at, T).float()[..., None]
    return h, mark, (h[torch.arange(B), at, 0] > 0).long()


def test_low_rank_pooling_finds_what_a_mean_blurs():
    h, mark, label = marked()
    torch.manual_seed(0)
    inputs = (torch.cat([h, 3 * mark], -1),)
    mean = learned(lambda x: x.mean(1), inputs, label)
    low_rank = learned(LowRankAttentionPooling(6, heads=4), inputs, label)
    assert low_rank > mean + 0.1
    assert low_rank > 0.85


@pytest.mark.parametrize("condition", ["concat", "gate", "affine"])
def test_a_lexicon_says_where_to_look(condition):
    """The tokens do not say which of them counts, the features do."""
    h, mark, label = marked()
    lexicon = torch.cat([mark, 1 - mark], -1)
    h = torch.cat([h, torch.ones(*h.shape[:2], 1)], -1)
    torch.manual_seed(0)
    without = learned(ConditionedAttentionPooling(6, 2, condition="none"), (h, lexicon), label)
    conditioned = learned(ConditionedAttentionPooling(6, 2, condition=condition), (h, lexicon), label)
    assert conditioned > without + 0.1
    assert conditioned > 0.85


def test_they_are_built_by_name_and_bad_arguments_refused():
    assert create("head:low_rank_attention_pooling", dim=4, heads=2)(tokens(D=4).float()).shape == (3, 8)
    assert create("head:conditioned_attention_pooling", dim=4, features=2)(
        tokens(D=4).float(), features(F=2).float()
    ).shape == (3, 4)
    with pytest.raises(ValueError, match=r"got 'gates' \(did you mean gate"):
        ConditionedAttentionPooling(4, 2, condition="gates")
    with pytest.raises(ValueError, match=r"features are \(3, 7, 2\) here; got None"):
        ConditionedAttentionPooling(6, 2).double()(tokens())
    with pytest.raises(ValueError, match=r"reads \(batch, time, 5\)"):
        LowRankAttentionPooling(5).double()(tokens())
    with pytest.raises(ValueError, match="mask is bool"):
        LowRankAttentionPooling(6).double()(tokens(), MASK[:, :3])
