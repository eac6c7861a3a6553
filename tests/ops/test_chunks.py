"""Decays within a chunk: against a plain double loop, and where differences of sums would lose digits."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.ops.chunks import Decay, chunk_length, chunks, unchunked


def by_loop(g, readers, read, before):
    """scores[i, j] = sum over k of readers[i, k] read[j, k] exp(g[j + 1, k] + ... + g[i, k])."""
    C = len(g)
    scores = torch.zeros(C, C, dtype=g.dtype)
    for i in range(C):
        for j in range(i if before else i + 1):
            between = g[j + 1 : i + 1].clone()
            if before:
                between[-1] = torch.where(g[i] == -torch.inf, -torch.inf, 0.0)
            scores[i, j] = (readers[i] * read[j] * between.sum(0).exp()).sum()
    return scores


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("C", [1, 2, 8, 16])
def test_scores_and_edges(C, per_channel, before):
    torch.manual_seed(0)
    K = 5
    readers, read = torch.randn(2, C, K, dtype=torch.float64)
    g = -torch.rand(C, K if per_channel else 1, dtype=torch.float64) * 3
    g = g.masked_fill(torch.rand_like(g) < 0.15, -torch.inf)
    decay = Decay(g, before=True)
    assert_close(decay.scores(readers, read, before=before), by_loop(g, readers, read, before))
    ones = torch.ones(C, K, dtype=torch.float64)
    until = torch.stack([g[: i + 1].sum(0) for i in range(C)]).exp().expand(C, K)
    after = torch.stack([g[i + 1 :].sum(0) for i in range(C)]).exp().expand(C, K)
    assert_close(decay.from_start(ones), until)
    assert_close(decay.to_end(ones), after)
    assert_close(decay.kept[..., 0], g.sum(0).exp())


def test_no_decay_keeps_everything():
    readers, read = torch.randn(2, 4, 3)
    decay = Decay(None)
    assert decay.kept is None
    assert_close(decay.scores(readers, read), (readers @ read.mT).tril())
    assert_close(decay.scores(readers, read, before=True), (readers @ read.mT).tril(-1))


@pytest.mark.parametrize("K", [1, 4])
def test_strong_and_weak_decays_share_a_chunk(K):
    """Beside e^-1000 a running sum in float32 has no digits left for e^-0.001; sums of blocks keep them."""
    g = torch.full((16, K), -0.001)
    g[3] = -1000.0
    ones = torch.ones(16, K)
    scores = Decay(g).scores(ones, ones)
    assert_close(scores[15, 3], K * torch.tensor(-0.012).exp(), rtol=1e-6, atol=0)
    assert scores[15, 2] == 0


def test_chunks_are_powers_of_two_and_come_back():
    assert [chunk_length(T) for T in (1, 2, 3, 33, 64, 1000)] == [1, 2, 4, 64, 64, 64]
    x = torch.randn(2, 13, 3, 5)
    parts = chunks(x, 8)
    assert parts.shape == (2, 2, 3, 8, 5)
    assert (parts[:, 1, :, 5:] == 0).all()
    assert_close(unchunked(parts, 13), x, rtol=0, atol=0)
