"""N-gram heads are the matrix of matches, and predict as counts of n-grams do."""

from collections import Counter

import pytest
import torch

from ostinato.registry import create


def test_it_is_the_matrix_of_matches_by_brute_force():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, (2, 40), generator=generator)
    mixer = create("ngram_head", dim=7, orders=[1, 2, 4]).double()
    h = torch.randn(3, 7, dtype=torch.float64, generator=generator)[tokens]
    found = [h @ mixer.project_self.weight.T]
    for n, weight in zip((1, 2, 4), mixer.project_out.weight.split(7, 1)):
        A = torch.zeros(2, 40, 40, dtype=torch.float64)
        for b, i, j in torch.cartesian_prod(torch.arange(2), torch.arange(40), torch.arange(40)).tolist():
            row = tokens[b].tolist()
            if n <= j <= i and i >= n - 1 and row[i - n + 1 : i + 1] == row[j - n : j]:
                A[b, i, j] = 1
        assert A.any()
        found.append(A / A.sum(-1, keepdim=True).clamp(min=1) @ h @ weight.T)
    torch.testing.assert_close(mixer(h)[0], sum(found))


def test_with_one_hot_tokens_it_gives_the_shares_of_what_followed():
    text = "abracadabra_abra"
    letters = sorted(set(text))
    mixer = create("ngram_head", dim=len(letters), orders=(2,))
    with torch.no_grad():
        mixer.project_self.weight.zero_()
        mixer.project_out.weight.copy_(torch.eye(len(letters)))
    x = torch.eye(len(letters))[torch.tensor([[letters.index(c) for c in text]])]
    y = mixer(x)[0][0]
    for i in range(1, len(text)):
        after = Counter(text[j] for j in range(2, i + 1) if text[j - 2 : j] == text[i - 1 : i + 1])
        expected = [after[c] / max(1, after.total()) for c in letters]
        assert y[i].tolist() == pytest.approx(expected, abs=1e-6)


def test_documents_do_not_see_each_other():
    mixer = create("ngram_head", dim=5, orders=(1,))
    x = torch.randn(3, 5)[torch.tensor([[0, 1, 0, 1, 0, 1]])]
    reset = torch.tensor([[True, False, False, True, False, False]])
    y = mixer(x, None, reset)[0]
    torch.testing.assert_close(y[:, 4], mixer.project_self(x[:, 4]))  # its first 0, with nothing after one before
    assert not torch.allclose(mixer(x)[0][:, 4], y[:, 4])


def test_vectors_that_are_alike_and_scaled_ones_are_the_same_token():
    mixer = create("ngram_head", dim=6, orders=(1,)).double()
    h = torch.randn(2, 6, dtype=torch.float64)
    x = torch.stack([h[0], h[1], 3 * h[0]])[None]
    followed = mixer.project_out(h[1])
    torch.testing.assert_close(mixer(x)[0][0, 2], mixer.project_self(3 * h[0]) + followed)


@pytest.mark.parametrize("orders", [(), (0, 1)])
def test_orders_that_cannot_be_are_refused(orders):
    with pytest.raises(ValueError, match="orders are numbers of tokens, at least 1"):
        create("ngram_head", dim=4, orders=orders)
