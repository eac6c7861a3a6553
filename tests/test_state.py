"""The helpers over states: nothing is lost, nothing is shared, and a file of another module is refused."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ostinato import state as states


class Inner(NamedTuple):
    S: Tensor  # B H K
    seen: Tensor  # B T bool


class Outer(NamedTuple):
    layers: tuple[Inner, ...]
    last: Tensor | None  # B D; None where there is nothing to remember


def made(batch: int = 3, layers: int = 2, cache: int = 4, last: bool = True, seed: int = 0) -> Outer:
    draw = torch.Generator().manual_seed(seed)
    inner = tuple(
        Inner(torch.randn(batch, 2, 5, generator=draw), torch.rand(batch, cache, generator=draw) < 0.5)
        for _ in range(layers)
    )
    return Outer(inner, torch.randn(batch, 7, generator=draw) if last else None)


some_states = st.builds(
    made,
    batch=st.integers(1, 4),
    layers=st.integers(1, 3),
    cache=st.integers(1, 5),
    last=st.booleans(),
    seed=st.integers(0, 99),
)


def same(one, other):
    assert_close(dict(states.named_leaves(one)), dict(states.named_leaves(other)), rtol=0, atol=0)


@given(some_states)
@settings(max_examples=25, deadline=None)
def test_rows_taken_apart_and_stacked_are_the_whole(state):
    batch = len(next(states.leaves(state)))
    rows = [states.select(state, [row]) for row in range(batch)]
    whole = states.stack(rows)
    assert type(whole) is Outer
    assert type(whole.layers[0]) is Inner
    same(whole, state)


@given(some_states, st.data())
@settings(max_examples=25, deadline=None)
def test_selecting_in_another_order_and_back_changes_nothing(state, data):
    batch = len(next(states.leaves(state)))
    order = torch.tensor(data.draw(st.permutations(range(batch))))
    same(states.select(states.select(state, order), order.argsort()), state)


@given(some_states)
@settings(max_examples=15, deadline=None)
def test_saved_and_loaded_it_is_bitwise_the_same(tmp_path_factory, state):
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    states.save(state, path)
    loaded = states.load(path, states.map_state(torch.zeros_like, state))
    assert type(loaded) is Outer
    assert (loaded.last is None) == (state.last is None)
    same(loaded, state)


def test_names_are_readable():
    names = [name for name, _ in states.named_leaves(made(layers=2))]
    assert names == ["layers.0.S", "layers.0.seen", "layers.1.S", "layers.1.seen", "last"]
    assert [name for name, _ in states.named_leaves(made(layers=1, last=False))] == ["layers.0.S", "layers.0.seen"]


def test_bytes_are_counted_bools_too():
    assert states.nbytes(made(batch=3, layers=1, cache=4)) == 3 * (2 * 5 * 4 + 4 * 1 + 7 * 4)


def test_a_row_may_be_repeated():
    state = made()
    beams = states.select(state, [2, 2, 0, 2])
    assert_close(beams.last, state.last[[2, 2, 0, 2]])


@pytest.mark.parametrize("rows", [[3], [-1], [[0, 1]]], ids=str)
def test_rows_that_are_not_there(rows):
    with pytest.raises(ValueError, match="rows are a list of numbers from 0 to 2; got"):
        states.select(made(batch=3), rows)


def test_a_shorter_cache_is_filled_up_in_front():
    both = states.stack([made(batch=1, cache=2), made(batch=2, cache=5)])
    seen = both.layers[0].seen
    assert seen.shape == (3, 5)
    assert not seen[0, :3].any()
    assert_close(seen[0, 3:], made(batch=1, cache=2).layers[0].seen[0])


def test_states_of_different_modules_do_not_stack():
    other = Outer((Inner(torch.zeros(1, 2, 6), torch.zeros(1, 4).bool()),), torch.zeros(1, 7))
    with pytest.raises(ValueError, match="can be stacked"):
        states.stack([made(batch=1, layers=1), other])


def test_where_chooses_row_by_row():
    one, other = made(seed=1), made(seed=2)
    chosen = states.where(torch.tensor([True, False, True]), one, other)
    same(states.select(chosen, [0, 2]), states.select(one, [0, 2]))
    same(states.select(chosen, [1]), states.select(other, [1]))


def test_rows_are_replaced():
    one, other = made(batch=3, seed=1), made(batch=2, seed=2)
    changed = states.replace(one, torch.tensor([2, 0]), other)
    same(states.select(changed, [1]), states.select(one, [1]))
    same(states.select(changed, [2, 0]), other)


def test_a_copy_shares_no_memory():
    state = made()
    copy = states.clone(state)
    state.layers[0].S.zero_()
    assert copy.layers[0].S.abs().sum() > 0


def test_detached_it_has_no_history():
    state = states.map_state(lambda leaf: leaf * 1.0, made())
    weight = torch.ones(1, requires_grad=True)
    grown = states.map_state(lambda leaf: leaf * weight, state)
    assert next(states.leaves(grown)).requires_grad
    assert not any(leaf.requires_grad for leaf in states.leaves(states.detach(grown)))


def test_it_moves_to_a_device():
    assert {leaf.device.type for leaf in states.leaves(states.to(made(), "meta"))} == {"meta"}


def test_rows_that_share_memory_can_be_saved(tmp_path):
    shared = torch.randn(1, 7).expand(3, 7)
    state = Outer((Inner(torch.zeros(3, 2, 5), torch.zeros(3, 4).bool()),), shared)
    states.save(state, tmp_path / "state")
    same(states.load(tmp_path / "state", made(layers=1)), state)


def test_saving_replaces_a_file_and_leaves_nothing_beside_it(tmp_path):
    states.save(made(seed=1), tmp_path / "state")
    states.save(made(seed=2), tmp_path / "state")
    assert [file.name for file in tmp_path.iterdir()] == ["state"]
    same(states.load(tmp_path / "state", made()), made(seed=2))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no saved state at .*missing"):
        states.load(tmp_path / "missing", made())


@pytest.mark.parametrize("content", [b"", b"not a state", bytes(100)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_state(tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(ValueError, match="state holds no readable state"):
        states.load(tmp_path / "state", made())


def test_a_file_cut_short(tmp_path):
    states.save(made(), tmp_path / "state")
    whole = (tmp_path / "state").read_bytes()
    (tmp_path / "state").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="holds no readable state"):
        states.load(tmp_path / "state", made())


def test_the_state_of_another_module(tmp_path):
    states.save(made(layers=1), tmp_path / "state")
    with pytest.raises(ValueError, match=r"the state of another module; they differ in layers\.1\.S, layers\.1\.seen"):
        states.load(tmp_path / "state", made(layers=2))


def test_a_state_of_another_type(tmp_path):
    states.save(made(), tmp_path / "state")
    like = states.map_state(lambda leaf: leaf.double(), made())
    with pytest.raises(
        ValueError, match=r"layers\.0\.S is torch\.float32 \(3, 2, 5\); this module's is torch\.float64"
    ):
        states.load(tmp_path / "state", like)
