"""Music in several voices: the file, piano rolls, voices one after another, and the nats of a step."""

import gzip
import json
import math
import os
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from ostinato import create
from ostinato.tasks.polyphonic_music import Music, jsb_chorales, nats_per_step

REPOSITORY = Path(__file__).parents[2]
SHORT, LONG = [[60, 55], [62], []], [[72, 67, 64, 48], [71, 67, 62, 43], [72, 67, 64, 48], [74], [60, 60]]


@pytest.fixture(params=[".json", ".json.gz"])
def music(request, tmp_path):
    text = json.dumps({"train": [SHORT, LONG], "valid": [LONG], "test": [SHORT]}).encode()
    file = tmp_path / f"music{request.param}"
    file.write_bytes(gzip.compress(text) if request.param == ".json.gz" else text)
    return jsb_chorales(file, lowest=40, highest=80)


def test_a_file_comes_back_with_its_split(music):
    assert (music.train, music.valid, music.test) == ([SHORT, LONG], [LONG], [SHORT])
    assert (music.width, music.vocab_size) == (41, 42)


def test_a_roll_has_a_number_for_each_note(music):
    roll = music.roll(SHORT)
    assert roll.shape == (3, 41)
    assert [(step.nonzero().flatten() + 40).tolist() for step in roll] == [[55, 60], [62], []]
    assert music.roll(LONG)[4].sum() == 1, "two voices on one note"


def test_each_step_is_predicted_from_those_before_it(music):
    batch = music.batch([SHORT, LONG])
    assert batch.inputs.shape == batch.targets.shape == (2, 4, 41)
    assert batch.scored.tolist() == [[True, True, False, False], [True] * 4]
    for row, piece in enumerate((SHORT, LONG)):
        assert_close(batch.inputs[row, : len(piece) - 1], music.roll(piece)[:-1])
        assert_close(batch.targets[row, : len(piece) - 1], music.roll(piece)[1:])


def test_nats_of_a_step_by_hand(music):
    batch = music.batch([SHORT, LONG])
    even = torch.zeros(2, 4, 41)
    assert_close(nats_per_step(even, batch), torch.tensor(41 * math.log(2)))
    sure = 50 * (2 * batch.targets - 1)
    assert nats_per_step(sure, batch) < 1e-6
    sure[0, 2:] = -sure[0, 2:]
    assert nats_per_step(sure, batch) < 1e-6, "what comes after a piece does not count"
    sure[0, 1, 3] = 12.0  # a note that does not sound, expected with this logit; there are 6 steps
    assert_close(nats_per_step(sure, batch).item(), math.log1p(math.exp(12)) / 6)
    alone = [nats_per_step(torch.zeros(1, len(piece) - 1, 41), music.batch([piece])) for piece in (SHORT, LONG)]
    assert_close(nats_per_step(even, batch), (2 * alone[0] + 4 * alone[1]) / 6)


def test_a_recurrent_network_learns_a_tune():
    """Independent notes with the frequencies of the piece are the floor of who remembers nothing."""
    torch.manual_seed(0)
    music = Music([LONG], [], [], 40, 80)
    batch = music.batch([LONG[:3] * 5])
    rnn, head = create("gru", dim=16), torch.nn.Linear(16, music.width)
    read = torch.nn.Linear(music.width, 16)
    optimizer = torch.optim.Adam([*rnn.parameters(), *head.parameters(), *read.parameters()], lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nats_per_step(head(rnn(read(batch.inputs))[0]), batch)
        loss.backward()
        optimizer.step()
    share = batch.targets[0].mean(0).clamp(1e-6, 1 - 1e-6)
    blind = nats_per_step(share.logit().expand_as(batch.targets), batch)
    assert loss < 0.5 * blind


def test_voices_follow_each_other(music):
    tokens = music.voices(LONG)
    assert tokens.shape == (20,)
    assert tokens[:5].tolist() == [72 - 39, 67 - 39, 64 - 39, 48 - 39, 71 - 39]
    assert tokens[12:16].tolist() == [74 - 39, 0, 0, 0]
    for piece in (SHORT, LONG):
        assert music.piece(music.voices(piece)) == piece
    with pytest.raises(ValueError, match="at most 3 voices sound at once; at step 0 there are 4"):
        music.voices(LONG, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is no music: a JSON object with train, valid, test"),
        (b'{"train": [], "valid": []}', "is no music"),
        (b'{"train": [3], "valid": [], "test": []}', "is no music"),
        (b'{"train": [[[20]]], "valid": [], "test": []}', "pitches are 21 to 108 here; .* has 20"),
    ],
)
def test_what_is_no_music_is_refused(tmp_path, content, message):
    (tmp_path / "music.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        jsb_chorales(tmp_path / "music.json")


def test_too_short_a_piece_and_no_file_are_refused(music, tmp_path):
    with pytest.raises(ValueError, match="at least 2 steps"):
        music.batch([LONG, [[60]]])
    with pytest.raises(FileNotFoundError, match="no music in"):
        jsb_chorales(tmp_path / "nowhere.json")


def test_the_published_chorales():
    folder = Path(os.environ.get("OSTINATO_DATA", REPOSITORY.parent / "shared" / "data")) / "music"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there; $OSTINATO_DATA says where the data sets are")
    quarter = jsb_chorales(folder / "jsb-chorales-quarter.json.gz")
    assert [len(part) for part in (quarter.train, quarter.valid, quarter.test)] == [229, 76, 77]
    assert sum(map(len, quarter.train)) == 13_807
    batch = quarter.batch(quarter.test)
    assert int(batch.scored.sum()) == sum(map(len, quarter.test)) - 77
    # each note as often as in what is learned from; a GRU is said to reach 8.43 (Bai et al. 2018)
    share = torch.cat([quarter.roll(piece) for piece in quarter.train]).mean(0).clamp(1e-4, 1 - 1e-4)
    assert nats_per_step(share.logit().expand_as(batch.targets), batch).item() == pytest.approx(11.093, abs=1e-3)
    sixteenth = jsb_chorales(folder / "jsb-chorales-16th.json.gz")
    tokens = sixteenth.voices(sixteenth.test[0])
    assert len(tokens) == 4 * len(sixteenth.test[0])
    assert sixteenth.piece(tokens) == sixteenth.test[0]
