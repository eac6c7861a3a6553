"""A model that `ostinato train` made goes on in transformers' Trainer, and with a PEFT adapter."""

import pytest
import torch

from ostinato.cli.__main__ import main

transformers = pytest.importorskip("transformers")

import ostinato.hf as hf  # noqa: E402 - needs transformers

SENTENCES = [
    f"the {thing} sat on the {place} and saw the {thing}. " * 2 for thing in ("cat", "dog") for place in ("mat", "sea")
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder that `ostinato export` wrote of a run that `ostinato train` made."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("the mat sat on the sea. " * 60)
    words = f"--data {folder}/text.txt --dim 16 --layers 2 --mixer gla --mixer mamba --tokenizer bytes --steps 60 --lr 1e-2 --batch-size 8 --length 32 --set train.device=cpu --set train.tensorboard=false"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSTINATO_CACHE", str(folder / "cache"))
        assert main(["train", *words.split(), "--out", str(folder / "run")]) == 0
        assert main(["export", str(folder / "run"), "--to", "transformers", "-o", str(folder / "model")]) == 0
    return folder / "model"


def load(folder):
    """The model and its tokenizer, and sentences of different lengths as a data set."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token_id = 0  # any number: attention_mask says what is padding
    rows = [{"input_ids": tokenizer(text[: 40 + 7 * i]).input_ids} for i, text in enumerate(SENTENCES)] * 3
    return transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False), tokenizer, rows


def fit(model, tokenizer, rows, folder, **settings):
    """Losses of a few steps of transformers' Trainer."""
    arguments = transformers.TrainingArguments(
        output_dir=folder, per_device_train_batch_size=3, max_steps=12, learning_rate=2e-2, logging_steps=1,
        report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, **{"save_strategy": "no"} | settings,
    )  # fmt: skip
    collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    trainer = transformers.Trainer(model, arguments, train_dataset=rows, data_collator=collator)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line], trainer


def test_it_goes_on_in_the_trainer(trained, tmp_path):
    model, tokenizer, rows = load(trained)
    settings = dict(gradient_checkpointing=True, gradient_accumulation_steps=2, save_strategy="steps", save_steps=12)
    losses, trainer = fit(model, tokenizer, rows, tmp_path, **settings)
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint-12")
    assert all(torch.equal(again.state_dict()[name], x) for name, x in model.state_dict().items())
    assert trainer.evaluate(rows)["eval_loss"] < losses[0]


def test_an_adapter_is_trained_saved_and_merged(trained, tmp_path):
    peft = pytest.importorskip("peft")
    model, tokenizer, rows = load(trained)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    targets = hf.lora_targets(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
    losses, _ = fit(adapted, tokenizer, rows, tmp_path / "trainer")
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])
    unmoved = [name for name, x in adapted.named_parameters() if "lora_B" in name and not x.any()]
    assert not unmoved, "an adapter that changes nothing"
    base = {name.replace(".base_layer", ""): x for name, x in adapted.base_model.model.state_dict().items()}
    assert all(torch.equal(base[name], x) for name, x in before.items()), "the weights themselves stay"
    adapted.save_pretrained(tmp_path / "adapter")
    x = torch.tensor([tokenizer(SENTENCES[0]).input_ids])
    adapted.eval()
    expected = adapted(x).logits
    fresh = transformers.AutoModelForCausalLM.from_pretrained(trained)
    assert not torch.allclose(fresh(x).logits, expected, atol=1e-2)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    assert torch.equal(again(x).logits, expected)
    how = dict(max_new_tokens=9, do_sample=False, pad_token_id=0)
    text = again.generate(input_ids=x, **how).tolist()
    merged = again.merge_and_unload()
    assert type(merged) is hf.OstinatoForCausalLM
    torch.testing.assert_close(merged(x).logits, expected, rtol=1e-4, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    alone = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(alone(x).logits, merged(x).logits)
    assert alone.generate(x, **how).tolist() == text


def test_maps_whose_weights_go_to_a_kernel_are_no_targets():
    config = hf.OstinatoConfig(vocab_size=9, model={"dim": 8, "layers": 2, "pattern": ["mamba", "lstm"], "mlp": None})
    model = hf.OstinatoForCausalLM(config).train()
    linear = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    targets = hf.lora_targets(model)
    assert model.training
    missing = {name.removeprefix("model.stack.layers.") for name in linear.difference(targets)}
    assert missing == {"model.head", "0.mixer.step", "1.mixer.project_in"}
