"""Checkpoints in all their forms, those that are damaged, and those that ask for what is not here."""

import json
import pickle
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from tokenizers import Tokenizer, normalizers

from ostinato import from_pretrained
from ostinato.cli.__main__ import main
from ostinato.convert.exporting import export_run
from ostinato.convert.importing import import_run
from ostinato.data import BPETokenizer
from ostinato.runs import Run
from tests.convert.parity import randomised

transformers = pytest.importorskip("transformers")

TOKENS = torch.arange(20).view(1, 20)


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    sizes = dict(vocab_size=300, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3)
    return randomised(transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)))


@pytest.fixture(scope="module")
def logits(llama):
    return llama(TOKENS).logits.detach()


@pytest.fixture
def folder(llama, tmp_path):
    folder = tmp_path / "theirs"
    llama.save_pretrained(folder)
    return folder


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def same_logits(model, logits):
    torch.testing.assert_close(model(TOKENS)[0], logits, rtol=0, atol=1e-4)


def test_shards(llama, logits, tmp_path):
    llama.save_pretrained(tmp_path / "many", max_shard_size="10KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    same_logits(from_pretrained(tmp_path / "many"), logits)


def test_files_of_torch(folder, logits):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    same_logits(from_pretrained(folder), logits)
    (folder / "pytorch_model.bin").rename(folder / "weights.pth")
    same_logits(from_pretrained(folder), logits)


def test_names_without_the_prefix_of_the_model(tmp_path):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=31, n_embd=12, n_layer=2, n_head=3, n_positions=40)
    theirs = randomised(transformers.GPT2LMHeadModel(config))
    theirs.transformer.save_pretrained(tmp_path / "bare")
    assert "wte.weight" in load_file(tmp_path / "bare" / "model.safetensors")
    same_logits(from_pretrained(tmp_path / "bare"), theirs(TOKENS).logits.detach())


def test_older_names_of_rotary_positions(folder, llama):
    """rope_theta and rope_scaling, as written before transformers 5."""
    values = json.loads((folder / "config.json").read_text())
    del values["rope_parameters"]
    values |= {"rope_theta": 700.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    (folder / "config.json").write_text(json.dumps(values))
    with torch.no_grad():
        expected = transformers.LlamaForCausalLM.from_pretrained(folder)(TOKENS).logits
    same_logits(from_pretrained(folder), expected)


def test_sixteen_bits_come_back_as_such(llama, tmp_path):
    transformers.LlamaForCausalLM(llama.config).to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs" / "model.safetensors")
    run = import_run(tmp_path / "theirs", tmp_path / "run")
    assert next(run.model().parameters()).dtype == torch.float32
    shards = sorted(export_run(run, tmp_path / "back", largest=10_000).glob("*.safetensors"))
    assert len(shards) > 2
    back = {name: x for shard in shards for name, x in load_file(shard).items()}
    assert back.keys() == theirs.keys()
    assert {name: x.dtype for name, x in back.items()} == dict.fromkeys(back, torch.bfloat16)
    assert all(torch.equal(x, theirs[name]) for name, x in back.items())
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(again[name], x) for name, x in theirs.items())
    assert from_pretrained(tmp_path / "theirs", dtype=torch.bfloat16).head.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(model_type="llamma"), "cannot import model_type 'llamma' .did you mean llama"),
        (dict(model_type="mixtral"), "cannot import model_type 'mixtral'"),
        (dict(model_type=["llama"]), r"cannot import model_type \['llama'\]"),
        (dict(attention_multiplier=0.3), "asks for attention_multiplier=0.3, which ostinato does not know"),
        (dict(hidden_act="relu"), "asks for hidden_act='relu'; ostinato has it with 'silu' only"),
        (dict(rope_scaling={"rope_type": "longrope", "factor": 2.0}), "asks for rope_type='longrope'"),
        (dict(quantization_config={"bits": 4}), "asks for quantization_config"),
        (dict(hidden_size="wide"), "makes no model"),
        (dict(num_attention_heads=0), "makes no model"),
        (dict(hidden_size=None), "says hidden_size; this one does not"),
        (dict(intermediate_size=21), r"gate_proj.weight has the shape \(20, 24\); .* has \(21, 24\)"),
        (dict(num_key_value_heads=1), r"k_proj.weight has the shape \(24, 24\); .* has \(8, 24\)"),
        (dict(tie_word_embeddings=True), "ties lm_head.weight to the embedding, and the weights are not equal"),
        (dict(num_hidden_layers=3), "lacks model.layers.2.input_layernorm.weight, .* and 6 more"),
        (dict(num_hidden_layers=1), "holds model.layers.1"),
    ],
)
def test_what_a_config_asks_for_is_refused_by_name(settings, message, folder, tmp_path):
    change(folder, **settings)
    with pytest.raises(ValueError, match=message):
        import_run(folder, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_what_changes_no_number_can_be_passed_over(folder, logits, tmp_path):
    change(folder, attention_multiplier=0.3)
    same_logits(from_pretrained(folder, ignore=["attention_multiplier"]), logits)
    assert main(["import", str(folder), "-o", str(tmp_path / "run"), "--ignore", "attention_multiplier"]) == 0
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "back")]) == 0


def broken_index(folder, **shards):
    homes = dict.fromkeys(load_file(folder / "model.safetensors"), "model.safetensors") | shards
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": homes}))


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def torn(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:5000])


def emptied(folder):
    """A pickle that takes from a stack on which nothing is."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02s.")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no checkpoint: it has no config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json is damaged: a mapping is expected"),
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors cannot be read"),
        (truncated, "model.safetensors cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 400), "model.safetensors cannot be read"),
        (torn, "pytorch_model.bin cannot be read"),
        (emptied, "pytorch_model.bin cannot be read"),
        (lambda folder: change(folder, model_type="llamma"), "cannot import model_type 'llamma' .did you mean llama"),
        (
            lambda folder: change(folder, num_key_value_heads=1),
            r"k_proj.weight has the shape \(24, 24\); .* has \(8, 24\)",
        ),
        (lambda folder: broken_index(folder, a="b.safetensors"), "lacks 1 of its shards: b.safetensors"),
        (lambda folder: broken_index(folder, a="model.safetensors"), "lacks a, which its index says is there"),
        (lambda folder: broken_index(folder, a="../b.safetensors"), "is damaged: it has no weight_map"),
        (lambda folder: rewrite(folder, lambda x: x.pop("model.norm.weight")), "lacks model.norm.weight, which"),
        (lambda folder: rewrite(folder, lambda x: x.update(more=torch.ones(1))), "holds more, which"),
        (lambda folder: rewrite(folder, lambda x: x.update({"model.norm.weight": torch.ones(24).int()})), "quantised"),
    ],
)
def test_damage_is_one_sentence_and_leaves_nothing(damage, message, folder, tmp_path, capsys):
    damage(folder)
    with pytest.raises(ValueError, match=message):
        from_pretrained(folder)
    assert main(["import", str(folder), "-o", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    "text", ['{"model": {"type": "BPE", "vocab": {"a": 0,', '{"version": "1.0"}', "[]", "\x00\x01"]
)
def test_a_damaged_tokenizer(text, folder, tmp_path, capsys):
    (folder / "tokenizer.json").write_text(text)
    assert main(["import", str(folder), "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "tokenizer.json is damaged" in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_shard_that_is_not_there(llama, tmp_path, capsys):
    llama.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    next((tmp_path / "theirs").glob("model-00002-of-*.safetensors")).unlink()
    capsys.readouterr()
    assert main(["import", str(tmp_path / "theirs"), "-o", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "lacks 1 of its shards: model-00002-of-" in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


class Touch:
    """Pickled, it would make a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("write", [pickle.dumps, None], ids=["pickle", "torch"])
def test_no_code_is_run(write, folder, tmp_path):
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    if write is None:
        torch.save({"x": Touch(tmp_path / "ran")}, path)
    else:
        path.write_bytes(write({"x": Touch(tmp_path / "ran")}))
    with pytest.raises(ValueError, match=r"pytorch_model.bin cannot be read"):
        from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_what_is_no_folder_and_not_in_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for source in (tmp_path / "nothing", "someone/nothing-of-that-name"):
        assert main(["import", str(source), "-o", str(tmp_path / "run")]) == 2
        assert "no folder" in capsys.readouterr().err


def test_from_the_command_line_and_back(llama, folder, tmp_path, capsys):
    texts = ["a line of words, and another line\n" * 3, "other words than those of the line\n"] * 3
    backend = Tokenizer.from_str(BPETokenizer.train(texts, 290).to_json())
    backend.normalizer = normalizers.NFC()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text("{}")
    run, text, back = (str(tmp_path / name) for name in ("run", "text.txt", "back"))
    (tmp_path / "text.txt").write_text("\n".join(texts))
    assert main(["import", str(folder), "-o", run]) == 0
    assert f"llama, {llama.num_parameters():,} parameters" in capsys.readouterr().out
    assert main(["import", str(folder), "-o", run]) == 2
    assert "holds something already" in capsys.readouterr().err
    assert Run.open(run).tokenizer().vocab_size == 300
    assert main(["generate", run, "--prompt", "a line", "--tokens", "9", "--temperature", "0"]) == 0
    prompt = torch.tensor([backend.encode("a line").ids])
    expected = llama.generate(prompt, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)[0, -9:]
    expected = [token for token in expected.tolist() if token < backend.get_vocab_size()]
    assert capsys.readouterr().out.strip() == Run.open(run).tokenizer().decode(expected).strip()
    assert main(["evaluate", run, "--data", text, "--length", "8"]) == 0
    assert main(["export", run, "-o", back]) == 0
    assert main(["export", run, "-o", back]) == 2
    assert main(["export", run, "--to", "gguf", "-o", str(tmp_path / "x")]) == 2
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    transformers.AutoTokenizer.from_pretrained(back)
    again = transformers.AutoModelForCausalLM.from_pretrained(back).state_dict()
    assert all(torch.equal(again[name], x) for name, x in llama.state_dict().items())


MIXERS = {
    "attention": {"heads": 3, "kv_heads": 1, "window": 9},
    "mamba": {"state_size": 5},
    "mamba2": {"state_size": 5, "head_dim": 8},
}


@pytest.mark.parametrize("name", MIXERS)
def test_models_that_were_trained_here(name, tmp_path):
    torch.manual_seed(0)
    tokenizer = BPETokenizer.train(["some words, and some more words"], 270)
    model = {"dim": 24, "layers": 2, "pattern": [{name: MIXERS[name]}], "tie": False}
    model["mlp"] = "swiglu" if name == "attention" else None
    run = Run.create(tmp_path / "run", {"model": model}, tokenizer)
    ours = run.new_model().eval()
    with run.writing(1) as folder:
        save_model(ours, folder / "model.safetensors")
    export_run(run, tmp_path / "theirs")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    same_logits(from_pretrained(tmp_path / "run"), theirs(TOKENS).logits.detach())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")("words").input_ids


@pytest.mark.parametrize("longest", ["many", -1, None])
def test_a_length_that_is_none_is_passed_over(longest, folder, tmp_path):
    change(folder, max_position_embeddings=longest)
    assert import_run(folder, tmp_path / "run").config["train"]["length"] == 2048


def test_an_export_for_our_own_class_says_which_tokens_end_a_text(folder, tmp_path):
    change(folder, bos_token_id=5, eos_token_id=[7, 9])
    (folder / "generation_config.json").unlink()
    export_run(import_run(folder, tmp_path / "run"), tmp_path / "back", to="ostinato")
    again = import_run(tmp_path / "back", tmp_path / "again")
    assert (again.begin_of_text(), again.end_of_text()) == (5, {7, 9})


def test_transformers_is_not_needed(folder, tmp_path):
    code = """
import sys
sys.modules["transformers"] = None
from ostinato.cli.__main__ import main
assert main(["import", sys.argv[1], "-o", sys.argv[2] + "/run"]) == 0
assert main(["export", sys.argv[2] + "/run", "-o", sys.argv[2] + "/back"]) == 0
"""
    subprocess.run([sys.executable, "-c", code, str(folder), str(tmp_path)], check=True, capture_output=True)
    theirs, back = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "back"))
    assert theirs.keys() == back.keys()
    assert all(torch.equal(x, back[name]) for name, x in theirs.items())
