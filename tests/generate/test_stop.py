"""Where a text ends: at the tokens that are given, at those that an imported model says, and nowhere else."""

import io
import json
import sys

import pytest
import torch
from torch.testing import assert_close

from ostinato import state as states
from ostinato.cli.__main__ import main
from ostinato.convert.importing import import_run
from ostinato.data import BPETokenizer, ByteTokenizer
from ostinato.generate import Sampler, begin, ended, stream, write
from ostinato.runs import Run
from tests.generate.conftest import small_model

GREEDY = Sampler(temperature=0)
PROMPTS = [[3, 1, 4], [1, 5, 9], [2, 6, 5]]


def test_a_row_repeats_its_last_token_until_all_have_ended():
    model = small_model("hybrid")
    free = list(stream(model, PROMPTS, 20, Sampler(seed=1)))
    whole = torch.stack([token for token, _ in free], 1)
    stop = {int(whole[0, 4]), int(whole[1, 9]), int(whole[2, 2])}
    ends = [next(t for t in range(20) if int(row[t]) in stop) for row in whole]
    found = list(stream(model, PROMPTS, 20, Sampler(seed=1), stop=stop))
    assert len(found) == max(ends) + 1 < 20
    for row, end in enumerate(ends):
        said = torch.stack([token[row] for token, _ in found])
        assert torch.equal(said[: end + 1], whole[row, : end + 1])
        assert (said[end:] == whole[row, end]).all()
    last = ends.index(max(ends))
    one, other = (states.select(state, [last]) for state in (found[-1][1], free[max(ends)][1]))
    assert_close(list(states.leaves(one)), list(states.leaves(other)), rtol=0, atol=0)


def test_without_one_of_them_it_goes_on_to_the_last_step():
    model = small_model()
    plain = torch.stack([token for token, _ in stream(model, PROMPTS, 12, GREEDY)])
    never = set(range(256)) - set(plain.flatten().tolist())
    assert torch.equal(torch.stack([token for token, _ in stream(model, PROMPTS, 12, GREEDY, stop=never)]), plain)


def test_a_session_ends_without_the_token_that_says_so():
    model, tokenizer = small_model(), ByteTokenizer()
    session = begin(model, tokenizer, "a", GREEDY)
    whole = [(piece, int(after.recent[0, -1])) for piece, after in write(model, tokenizer, session, 20, GREEDY)]
    assert not ended(session, [whole[6][1]])
    stop = {whole[6][1]}
    end = next(i for i, (_, token) in enumerate(whole) if token in stop)
    found = list(write(model, tokenizer, session, 20, GREEDY, stop=stop))
    assert len(found) == end + 1
    assert [piece for piece, _ in found[:-1]] == [piece for piece, _ in whole[:end]]
    assert found[-1][0] in ("", "\ufffd"), "what was left of a character that was begun, and no more"
    assert ended(found[-1][1], stop)


transformers = pytest.importorskip("transformers")
TEXTS = ["a line of words, and another line\n" * 3, "other words than those of the line\n"] * 3


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A tiny Llama, its tokens after a prompt as transformers draws them, and the folder of its checkpoint."""
    torch.manual_seed(2)
    tokenizer = BPETokenizer.train(TEXTS, 290)
    sizes = dict(vocab_size=tokenizer.vocab_size, hidden_size=24, intermediate_size=20)
    config = transformers.LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=3, initializer_range=0.5)
    llama = transformers.LlamaForCausalLM(config).eval()
    folder = tmp_path_factory.mktemp("theirs")
    llama.save_pretrained(folder)
    tokenizer.save(folder)
    prompt = torch.from_numpy(tokenizer.encode("a line"))[None]
    ask = dict(attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False, pad_token_id=0)
    free = llama.generate(prompt, **ask, eos_token_id=None)[0, prompt.shape[1] :].tolist()
    eos = next(token for i, token in enumerate(free) if i > 3 and token not in free[:i])
    theirs = llama.generate(prompt, **ask, eos_token_id=[eos, 299])[0, prompt.shape[1] :].tolist()
    assert theirs[-1] == eos
    assert len(theirs) < 20
    return folder, tokenizer, free, theirs, eos


def run_of(folder, target, **files):
    """The checkpoint as a run, with other files beside its weights."""
    run = import_run(folder, target)
    for name, content in files.items():
        (run.folder / "hugging_face" / f"{name}.json").write_text(json.dumps(content))
    return run


def test_an_imported_model_stops_where_transformers_does(imported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    folder, tokenizer, free, theirs, eos = imported
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [eos, 299], "do_sample": True}))
    run = str(import_run(folder, tmp_path / "run").folder)
    assert Run.open(run).end_of_text() == {eos, 299}
    words = ["generate", run, "--prompt", "a line", "--temperature", "0"]
    assert main([*words, "--tokens", "20"]) == 0
    assert capsys.readouterr().out.removesuffix("\ufffd") == tokenizer.decode(theirs[:-1]).removesuffix("\ufffd")
    assert main([*words, "--tokens", "20", "--ignore-eos"]) == 0
    assert capsys.readouterr().out.removesuffix("\ufffd") == tokenizer.decode(free).removesuffix("\ufffd")
    state = str(tmp_path / "state")
    assert main([*words, "--tokens", "20", "--state-out", state]) == 0
    capsys.readouterr()
    assert main(["generate", run, "--state-in", state, "--tokens", "5", "--temperature", "0"]) == 0
    assert capsys.readouterr().out == "", "it was at its end"
    assert main(["generate", run, "--state-in", state, "--tokens", "5", "--temperature", "0", "--ignore-eos"]) == 0
    assert capsys.readouterr().out != ""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": 7}, "config": {"eos_token_id": 5}}, {7}),
        ({"generation_config": {"eos_token_id": None}, "config": {"eos_token_id": [5, 6]}}, {5, 6}),
        ({"generation_config": {}, "config": {}}, set()),
        (
            {
                "generation_config": {},
                "config": {},
                "tokenizer_config": {"eos_token": {"content": "</s>"}},
                "tokenizer": {"added_tokens": [{"id": 0, "content": "<s>"}, {"id": 9, "content": "</s>"}]},
            },
            {9},
        ),
        (
            {
                "generation_config": {},
                "config": {},
                "tokenizer_config": {"eos_token": "</s>"},
                "tokenizer": {"added_tokens": [3]},
            },
            set(),
        ),
    ],
    ids=["generation", "config", "nothing", "tokenizer", "odd tokenizer"],
)
def test_who_says_which_tokens_end_a_text(imported, tmp_path, files, expected):
    assert run_of(imported[0], tmp_path / "run", **files).end_of_text() == expected


def test_a_damaged_file_is_said(imported, tmp_path):
    run = run_of(imported[0], tmp_path / "run", generation_config=[3])
    with pytest.raises(ValueError, match=r"generation_config\.json is damaged: a mapping is expected"):
        run.end_of_text()
