"""Batches visit every token, each rank its own rows, and continue exactly from any position."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ostinato.data import IGNORE, Batches, TokenStore, sequential
from ostinato.data.shuffle import mix, permutation

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8).filter(lambda lengths: sum(lengths) > 1)


def store_of(lengths, dtype=np.uint16):
    """Documents in which every token of the store is another number, so that a token says where it is from."""
    lengths = np.array(lengths)
    return TokenStore(np.arange(lengths.sum(), dtype=dtype), np.cumsum(lengths) - lengths)


def rows_of(batches, calls, position=None):
    rows = []
    for _ in range(calls):
        batch, position = batches(position)
        rows += zip(batch.tokens.tolist(), batch.reset.tolist())
    return rows


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other))


def test_shapes_and_types():
    batch, position = Batches(store_of([5, 7, 30]), 3, 4)()
    assert batch.tokens.shape == batch.reset.shape == (3, 5)
    assert position == 3
    assert batch.tokens.dtype == torch.int64
    assert batch.reset.dtype == torch.bool


@given(LENGTHS, st.integers(1, 4), st.integers(1, 12), st.integers(0, 5), st.integers(0, 3))
@settings(deadline=None)
def test_reading_continues_exactly_from_any_position(lengths, B, T, stop, seed):
    store = store_of(lengths)
    position, batches = None, Batches(store, B, T, seed=seed)
    for _ in range(stop):
        _, position = batches(position)
    again = Batches(store, B, T, seed=seed)
    position_again = json.loads(json.dumps(position))
    for _ in range(4):
        (batch, position), (batch_again, position_again) = batches(position), again(position_again)
        assert same(batch, batch_again)
        assert position == position_again


@given(LENGTHS, st.integers(1, 12), st.integers(1, 3))
@settings(deadline=None)
def test_tokens_are_inputs_equally_often_or_once_more(lengths, T, laps):
    store = store_of(lengths)
    rows = -(-len(store) // T)
    seen = Counter(token for tokens, _ in rows_of(Batches(store, 1, T), laps * rows) for token in tokens[:-1])
    counts = [seen[token] for token in range(len(store))]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == laps * rows * T


def test_an_epoch_visits_each_token_once():
    store = store_of([8, 1, 11, 20])
    for epoch in range(3):
        rows = rows_of(Batches(store, 1, 5), 8, 8 * epoch)
        assert sorted(token for tokens, _ in rows for token in tokens[:-1]) == list(range(40))
    assert Batches(store, 1, 5).epoch(16) == 2.0


@given(LENGTHS, st.integers(1, 12))
@settings(deadline=None)
def test_a_row_is_documents_one_after_another_flagged_where_they_begin(lengths, T):
    store = store_of(lengths)
    starts = set(store.starts.tolist())
    ends = {int(store.document(i)[-1]) for i in range(store.documents)}
    for tokens, reset in rows_of(Batches(store, 2, T), 5):
        assert reset == [token in starts for token in tokens]
        for token, following in zip(tokens, tokens[1:]):
            assert following in starts if token in ends else following == token + 1


def test_rows_overlap_by_the_token_that_is_target_and_then_input():
    rows = [tokens for tokens, _ in rows_of(Batches(store_of([50]), 1, 5), 10)]
    assert sorted(rows)[:2] == [[0, 1, 2, 3, 4, 5], [5, 6, 7, 8, 9, 10]]


def test_ranks_share_the_rows_among_them():
    store = store_of([3, 40, 5, 23])
    alone = rows_of(Batches(store, 6, 4), 9)
    ranks = [rows_of(Batches(store, 2, 4, rank=rank, world=3), 9) for rank in range(3)]
    together = [row for call in range(9) for rank in range(3) for row in ranks[rank][2 * call : 2 * call + 2]]
    assert together == alone


def test_a_position_serves_another_batch_size_and_world():
    store = store_of([3, 40, 5, 23])
    whole = rows_of(Batches(store, 1, 4), 24)
    first = rows_of(Batches(store, 3, 4), 4)
    _, position = Batches(store, 3, 4)(9)
    rest = rows_of(Batches(store, 6, 4), 2, position)
    assert first + rest == whole


@pytest.mark.parametrize(("lengths", "T"), [([2] * 40, 80), ([80], 2)], ids=["documents", "rows"])
def test_seeds_and_epochs_have_orders_of_their_own(lengths, T):
    """A row of a whole epoch shows the order of documents, a single document that of rows."""
    rows = 80 // T
    orders = []
    for seed in (0, 1):
        visited = rows_of(Batches(store_of(lengths), 1, T, seed=seed), 2 * rows)
        orders += [tuple(token for tokens, _ in visited[i : i + rows] for token in tokens[:-1]) for i in (0, rows)]
    assert len(set(orders)) == 4
    assert {frozenset(order) for order in orders} == {frozenset(range(80))}


def test_rows_of_one_long_document_are_shuffled():
    begins = [tokens[0] for tokens, _ in rows_of(Batches(store_of([400]), 1, 4), 100)]
    assert sorted(begins) == list(range(0, 400, 4))
    assert begins != sorted(begins)
    assert np.abs(np.diff(begins)).mean() > 50, "neighbours in a batch are from different places"


def test_a_shuffle_is_the_same_everywhere():
    """The first outputs of SplitMix64 from seed 1234567, as published with it, and an order that runs rely on."""
    counter = np.array([1234567, 1234567 + 0x9E3779B97F4A7C15], np.uint64)
    assert mix(counter).tolist() == [6457827717110365317, 3203168211198807973]
    assert permutation(10, 0, 0).tolist() == [4, 8, 0, 1, 7, 6, 2, 5, 3, 9]
    assert sorted(permutation(1000, 5).tolist()) == list(range(1000))


@given(LENGTHS, st.integers(1, 6), st.integers(1, 12))
@settings(deadline=None)
def test_evaluation_predicts_each_token_but_the_first_once(lengths, B, T):
    store = store_of(lengths)
    starts = set(store.starts.tolist())
    seen = Counter()
    for tokens, reset, targets in sequential(store, B, T):
        assert tokens.shape == reset.shape == (B, T + 1)
        assert targets.shape == (B, T)
        counts = targets != IGNORE
        assert torch.equal(targets[counts], tokens[:, 1:][counts])
        assert torch.equal(tokens[:, :-1][counts] + 1, targets[counts])  # the input is the token before
        seen.update(targets[counts].tolist())
        inputs = torch.cat([counts[:, :1], counts], 1)  # what is read: the first input, and all targets
        assert reset.tolist() == (torch.isin(tokens, torch.tensor(sorted(starts))) & inputs).tolist()
    assert seen == Counter(range(1, len(store)))


def test_evaluation_rows_continue_in_the_next_batch():
    batches = list(sequential(store_of([9, 8, 20]), 3, 4))
    for one, following in zip(batches, batches[1:]):
        assert torch.equal(one.tokens[:, -1], following.tokens[:, 0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_every_width_of_token(dtype):
    store = TokenStore(np.array([np.iinfo(dtype).max, 1, 2], dtype), np.array([0, 1]))
    assert np.iinfo(dtype).max in Batches(store, 1, 3)()[0].tokens[0, :3]
    assert next(sequential(store, 1, 2)).tokens.tolist() == [[np.iinfo(dtype).max, 1, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(batch_size=0, length=4), "at least 1; got 0 and 4"),
        (dict(batch_size=2, length=0), "at least 1; got 2 and 0"),
        (dict(batch_size=2, length=4, rank=2, world=2), "rank is one of 0 to world - 1; got rank 2 of 2"),
    ],
)
def test_sizes_that_make_no_batch_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Batches(store_of([9]), **arguments)


def test_a_position_that_none_returned_is_refused():
    with pytest.raises(ValueError, match="a position is None or what an earlier call returned; got -1"):
        Batches(store_of([9]), 1, 2)(-1)


def test_one_token_is_nothing_to_predict():
    with pytest.raises(ValueError, match="nothing can be predicted in a store of 1 token"):
        Batches(store_of([1]), 1, 2)
    with pytest.raises(ValueError, match="nothing can be predicted"):
        list(sequential(store_of([1]), 1, 2))


def test_a_store_has_documents():
    store = store_of([3, 2])
    assert (len(store), store.documents) == (5, 2)
    assert [store.document(i).tolist() for i in (0, 1)] == [[0, 1, 2], [3, 4]]
    for index in (-1, 2):
        with pytest.raises(IndexError, match="there are documents 0 to 1"):
            store.document(index)


@pytest.mark.parametrize("starts", [[], [1], [0, 0], [0, 3, 2], [0, 5]])
def test_starts_that_make_no_documents_are_refused(starts):
    with pytest.raises(ValueError, match="starts of documents begin at 0 and increase below 5"):
        TokenStore(np.arange(5), np.array(starts, np.int64))
