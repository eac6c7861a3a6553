"""Blocks that are computed again: the same numbers and gradients, and less that is kept."""

import torch

from ostinato import LanguageModel


def step(model, tokens, reset):
    """Loss, gradients and the bytes that were kept for them."""
    kept: dict[int, int] = {}

    def keep(part):
        kept[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
        return part

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda part: part):
        loss = model.loss(tokens, reset=reset)
    loss.backward()
    return loss.detach(), [part.grad.clone() for part in model.parameters()], sum(kept.values())


def test_blocks_computed_again_change_nothing_but_memory():
    torch.manual_seed(0)
    model = LanguageModel(11, 16, layers=2, pattern=["gla", "attention"])
    tokens, reset = torch.randint(11, (2, 65)), torch.rand(2, 65) < 0.1
    loss, gradients, kept = step(model, tokens, reset)
    model.stack.recompute = True
    again, same, less = step(model, tokens, reset)
    assert torch.equal(loss, again)
    assert all(torch.equal(one, other) for one, other in zip(gradients, same, strict=True))
    assert less < 0.5 * kept
