"""Texts that are put away and resumed: bit for bit as if they had been written at once, or refused."""

import pytest
import torch
from torch.testing import assert_close

from ostinato import LanguageModel
from ostinato import state as states
from ostinato.data import BPETokenizer, ByteTokenizer, Tokenizer
from ostinato.generate import Sampler, begin, load, save, write
from tests.generate.conftest import small_model

BYTES = ByteTokenizer()
SAMPLERS = [Sampler(temperature=0), Sampler(seed=4), Sampler(0.9, top_k=30, top_p=0.95, min_p=0.01, seed=5)]


def written(model, tokenizer, session, tokens, sampler):
    pieces = list(write(model, tokenizer, session, tokens, sampler))
    return "".join(text for text, _ in pieces), (pieces[-1][1] if pieces else session)


def same(one, other):
    assert_close(list(states.leaves(one)), list(states.leaves(other)), rtol=0, atol=0)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=["greedy", "drawn", "filtered"])
def test_a_text_in_parts_is_the_text_at_once(model, sampler, tmp_path):
    begun = begin(model, BYTES, "Once upon a time", sampler)
    text, end = written(model, BYTES, begun, 40, sampler)

    first, half = written(model, BYTES, begun, 20, sampler)
    save(half, tmp_path / "half.safetensors")
    again = load(tmp_path / "half.safetensors", model)
    second, ended = written(model, BYTES, again, 20, sampler)
    assert first + second == text
    same(ended, end)


def test_a_prompt_may_be_read_now_and_continued_later(model, tmp_path):
    sampler = Sampler(seed=2)
    save(begin(model, BYTES, "Once upon a time", sampler), tmp_path / "prompt")
    later, _ = written(model, BYTES, load(tmp_path / "prompt", model), 20, sampler)
    assert later == written(model, BYTES, begin(model, BYTES, "Once upon a time", sampler), 20, sampler)[0]


def test_a_prompt_in_two_parts_is_the_prompt(model):
    sampler = Sampler(temperature=0)
    parts = begin(model, BYTES, " a time", sampler, begin(model, BYTES, "Once upon", sampler), chunk=3)
    whole = begin(model, BYTES, "Once upon a time", sampler)
    assert_close(list(states.leaves(parts.model)), list(states.leaves(whole.model)))
    assert torch.equal(parts.recent, whole.recent)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
def test_prompts_of_any_length(model, length):
    text, session = written(model, BYTES, begin(model, BYTES, "abcdefghi"[:length], SAMPLERS[1]), 5, SAMPLERS[1])
    assert int(session.drawn) == 5
    assert session.recent.shape == (1, 4)
    assert text


class Says(torch.nn.Module):
    """A model that says what it is told to, whatever it reads; its state is how much it has said."""

    causal = True
    vocab_size = 256

    def __init__(self, text: bytes):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.text = text

    def check_input(self, tokens):
        pass

    def initial_state(self, batch):
        return (torch.zeros(batch, dtype=torch.long),)

    def forward(self, tokens, state=None, reset=None):
        (place,) = self.initial_state(len(tokens)) if state is None else state
        logits = torch.zeros(1, tokens.shape[1], 256)
        for t in range(tokens.shape[1]):
            logits[0, t, self.text[int(place) + t]] = 10.0
        return logits, (place + tokens.shape[1],)


@pytest.mark.parametrize("cut", range(1, 13))
def test_a_character_is_written_when_it_is_whole(cut, tmp_path):
    text = "aé→🎵z"  # 1, 2, 3, 4 and 1 bytes
    model = Says(text.encode() * 2)
    begun, greedy = begin(model, BYTES, "x", SAMPLERS[0]), SAMPLERS[0]
    pieces = [piece for piece, _ in write(model, BYTES, begun, 11, greedy)]
    assert pieces == ["a", "", "é", "", "", "→", "", "", "", "🎵", "z"]

    first, half = written(model, BYTES, begun, cut, greedy)
    save(half, tmp_path / "half")
    second, _ = written(model, BYTES, load(tmp_path / "half", model), 22 - cut, greedy)
    assert (first + second) == text * 2
    assert "\ufffd" not in first


def test_what_is_no_character_is_marked():
    model = Says(b"a\xff\xe2\x86b" + bytes(9))
    text, _ = written(model, BYTES, begin(model, BYTES, "x", SAMPLERS[0]), 5, SAMPLERS[0])
    assert text == "a\ufffd\ufffdb"


def test_tokens_of_several_bytes():
    tokenizer = BPETokenizer.train(["the cat and the hat and the bat ☕☕☕"] * 9, 290)
    torch.manual_seed(0)
    model = LanguageModel(tokenizer.vocab_size, 16, layers=1).eval()
    session = begin(model, tokenizer, "the cat ☕", SAMPLERS[1])
    tokens = []
    text = ""
    for piece, after in write(model, tokenizer, session, 60, SAMPLERS[1]):
        text += piece
        tokens.append(int(after.recent[0, -1]))
    assert max(tokens) > 255
    decoder = tokenizer.stream()
    assert text == "".join(decoder.add(token) for token in tokens)


def test_a_session_is_a_state():
    model, sampler = small_model(), Sampler(seed=1)
    session = begin(model, BYTES, "abc", sampler)
    same(states.select(session, [0]), session)
    assert [name for name, _ in states.named_leaves(session)][-4:] == ["recent", "seed", "drawn", "weights"]


def put_away(path, model):
    save(begin(model, BYTES, "abc", Sampler()), path)
    return path


def test_weights_that_were_trained_on_are_another_model(tmp_path):
    model = small_model()
    path = put_away(tmp_path / "s", model)
    with torch.no_grad():
        model.stack.layers[1].mixer.project_out.weight.mul_(1.001)
    with pytest.raises(ValueError, match="other weights"):
        load(path, model)


def test_the_same_weights_made_again_are_the_same_model(tmp_path):
    path = put_away(tmp_path / "s", small_model(seed=3))
    load(path, small_model(seed=3))
    with pytest.raises(ValueError, match="other weights"):
        load(path, small_model(seed=4))


def test_files_of_another_kind_of_model_are_refused(tmp_path):
    path = put_away(tmp_path / "s", small_model("gla"))
    with pytest.raises(ValueError, match="state of another module"):
        load(path, small_model("attention"))
    states.save(small_model().initial_state(1), tmp_path / "bare")
    with pytest.raises(ValueError, match="state of another module"):
        load(tmp_path / "bare", small_model())


@pytest.mark.parametrize("damage", ["cut", "flipped", "text", "empty"])
def test_damaged_files_are_refused(damage, tmp_path):
    model = small_model()
    path = put_away(tmp_path / "s", model)
    data = path.read_bytes()
    path.write_bytes(
        {"cut": data[:-9], "flipped": b"\xff" * 8 + data[8:], "text": b"hello there", "empty": b""}[damage]
    )
    with pytest.raises(ValueError, match="no readable state"):
        load(path, model)
    with pytest.raises(FileNotFoundError, match="no saved state at"):
        load(tmp_path / "nowhere", model)


def test_a_session_that_lost_its_last_token_is_refused(tmp_path):
    model = small_model()
    session = begin(model, BYTES, "abc", Sampler())
    save(session._replace(recent=torch.full((1, 4), -1)), tmp_path / "s")
    with pytest.raises(ValueError, match="which token comes next"):
        load(tmp_path / "s", model)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="at least one character"):
        begin(small_model(), BYTES, "", Sampler())


def test_a_tokenizer_of_another_size_is_refused():
    model = small_model(vocab_size=300)
    with pytest.raises(ValueError, match="300 tokens and the tokenizer 256"):
        begin(model, BYTES, "a", Sampler())
    tokenizer: Tokenizer = BPETokenizer.train(["a b c d e f g h i j k"] * 3, 257)
    text = write(small_model(), tokenizer, begin(small_model(), BYTES, "a", Sampler()), 3, Sampler())
    with pytest.raises(ValueError, match="256 tokens and the tokenizer 257"):
        next(text)
