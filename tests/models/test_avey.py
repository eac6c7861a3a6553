"""Avey by its equations: contexts of a few parts, found by their likeness, mixed by places and likeness."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, pad, relu
from torch.testing import assert_close

from ostinato.mixers.attention.avey_contextualizer import AveyContextualizer
from ostinato.models.avey import Avey


def contextualizer(**arguments):
    torch.manual_seed(0)
    return AveyContextualizer(6, **{"context": 8, "expansion": 3.0, **arguments}).double()


def model(**arguments):
    torch.manual_seed(0)
    avey = Avey(13, 8, **{"layers": 2, "part": 5, "found": 2, "expansion": 2.0, **arguments}).double()
    torch.nn.init.normal_(avey.embedding.weight)
    return avey


def tokens(T=33, B=2):
    return torch.randint(13, (B, T), generator=torch.Generator().manual_seed(1))


def by_equations(mixer, x):
    """One context (T, D), token by token."""
    z = relu(mixer.project_in(x)).square()
    left, right, bypass = z.split([mixer.width, mixer.width, z.shape[-1] - 2 * mixer.width], -1)
    y = []
    for t in range(len(x)):
        mixed = torch.zeros_like(left[0])
        for s in range(t + 1):
            mixed = mixed + mixer.places[t, s] * cosine_similarity(left[t], left[s], 0, 1e-30) * left[s]
        y.append(mixer.project_out(torch.cat([right[t] * mixed, bypass[t]])))
    return torch.stack(y)


@pytest.mark.parametrize("mixed", [0.5, 1.0])
def test_the_contextualizer_by_its_equations(mixed):
    mixer = contextualizer(mixed=mixed)
    x = mixer.random_input(1, 8)[0]
    assert_close(mixer(x[None])[0][0], by_equations(mixer, x), rtol=1e-5, atol=1e-5)


def test_contexts_do_not_hear_of_each_other():
    mixer = contextualizer()
    x = mixer.random_input(2, 19)
    y, state = mixer(x)
    assert_close(y, torch.cat([mixer(piece)[0] for piece in x.split(8, 1)], 1))
    assert state.tokens[0].shape == (2, 3, mixer.width)


def test_half_of_the_enriched_channels_go_by():
    mixer = contextualizer()
    with torch.no_grad():
        mixer.places.zero_()
    x = mixer.random_input(1, 8)
    bypass = relu(mixer.project_in(x)).square()[..., 2 * mixer.width :]
    expected = bypass @ mixer.project_out.weight[:, mixer.width :].T + mixer.project_out.bias
    assert_close(mixer(x)[0], expected)


@pytest.mark.parametrize("asks", ["previous", "current"])
def test_the_model_by_its_equations(asks):
    """Part by part, with brute force for the ranker."""
    avey, row, C = model(asks=asks), tokens(B=1), 5
    x = pad(avey.embedding(row)[0], (0, 0, 0, -33 % C))
    parts = x.unflatten(0, (-1, C))
    y = []
    for i in range(len(parts)):
        asking = parts[i] if asks == "current" else parts[max(i - 1, 0)]
        scores = [cosine_similarity(asking[:, None], parts[m], -1, 1e-8).amax(1).sum() for m in range(i)]
        best = sorted(sorted(range(i), key=lambda m: -round(scores[m].item(), 6))[:2])
        context = [parts[m] * scores[m] / max(scores[n] for n in best) for m in best]
        context = torch.cat([torch.zeros((2 - len(best)) * C, 8).double(), *context, parts[i]])
        for block in avey.stack.blocks:
            context = context + by_equations(block.mixer, block.mixer_norm(context))
        y.append(context[-C:])
    expected = avey.logits(avey.norm(torch.cat(y)[:33]))
    assert_close(avey(row)[0][0], expected, rtol=1e-5, atol=1e-5)


def test_with_nothing_found_parts_stand_alone():
    avey = model(found=0)
    assert_close(avey(tokens())[0], torch.cat([avey(part)[0] for part in tokens().split(5, 1)], 1))


def test_a_passkey_is_heard_from_a_distant_part():
    """The question repeats what stood beside the key: the next part is read with the part that holds it."""
    row = torch.randint(9, (1, 60), generator=torch.Generator().manual_seed(3))
    row[0, 10:14], row[0, 50:54] = torch.tensor([9, 10, 11, 12]), torch.tensor([9, 10, 11, 12])
    other = row.clone()
    other[0, 14] = (row[0, 14] + 1) % 9
    for found, heard in ((0, False), (1, False), (2, True)):  # the part that asks is itself the likest
        avey = model(found=found)
        assert torch.allclose(avey(row)[0][:, 55:], avey(other)[0][:, 55:]) is not heard


def test_the_current_part_tells_its_first_tokens_what_its_last_ones_ask_for():
    """Why the part before asks here: in the paper's form a token changes what was said before it."""
    other = tokens()
    other[:, 29] = (other[:, 29] + 1) % 13
    for asks, hears in (("previous", False), ("current", True)):
        avey = model(asks=asks)
        assert avey.causal is not hears
        assert torch.allclose(avey(tokens())[0][:, 25:29], avey(other)[0][:, 25:29]) is not hears


def test_it_learns_to_repeat():
    avey = model(part=4, found=2).float()
    row = tokens(12).repeat(1, 4)
    optimizer = torch.optim.Adam(avey.parameters(), 1e-2)
    first = avey.loss(row).item()
    for _ in range(30):
        optimizer.zero_grad()
        loss = avey.loss(row)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.7 * first


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="asks is previous or current"):
        model(asks="next")
    with pytest.raises(ValueError, match="part is at least 1 and found at least 0"):
        model(part=0)
    with pytest.raises(ValueError, match="context is at least 1"):
        contextualizer(context=0)
