"""Tasks of lm-evaluation-harness, asked of a model of this library.

    log p(continuation | context) = sum_t log p(c_t | context, c_1, ..., c_{t-1})

What several requests have in common, the question before its answers or the examples before all questions, is read once
(`evaluate/prefixes.py`). Contexts are read whole, never cut: a state needs no window. A text without context begins with the
token that the model's checkpoint says texts begin with; a model trained here has none, has never predicted a first token,
and gets one chance in the number of its tokens for it.

Gao et al. 2021, https://github.com/EleutherAI/lm-evaluation-harness.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

try:
    from lm_eval.api.model import TemplateLM
except ImportError:
    raise ImportError("tasks of lm-evaluation-harness need lm-eval: pip install 'ostinato[harness]'") from None

from ostinato import state as states
from ostinato.data import Tokenizer
from ostinato.evaluate.prefixes import walk
from ostinato.generate import Sampler, prefill, stream
from ostinato.models.modes import device as pick_device
from ostinato.models.modes import undisturbed
from ostinato.registry import did_you_mean
from ostinato.runs import Run
from ostinato.state import State

if TYPE_CHECKING:
    from ostinato.models.language_model import LanguageModel

CHUNK = 1024
"""Tokens of a sequence that are read at once."""

NEW_TOKENS = 256
"""Tokens of an answer at most, where a task does not say."""


class HarnessLM(TemplateLM):
    """A model as lm-eval asks it.

    model: a causal language model
    tokenizer: between text and its tokens
    batch_size: sequences that are read at a time
    begins_with: the token that texts begin with; None where there is none
    ends_with: the tokens that end a text, such as `Run.end_of_text()`
    """

    def __init__(
        self,
        model: "LanguageModel",
        tokenizer: Tokenizer,
        batch_size: int = 8,
        begins_with: int | None = None,
        ends_with: Collection[int] = (),
    ):
        super().__init__()
        if not model.causal:
            raise ValueError("lm-eval asks for the likelihood of a next token; this model sees the whole sequence")
        self.model, self.text, self.batch = model, tokenizer, batch_size
        self.begins_with, self.ends_with = begins_with, ends_with
        self.read = 0
        """Tokens that the model has read for likelihoods."""

    @property
    def eot_token_id(self) -> Any:
        return min(self.ends_with, default=None)

    @property
    def tokenizer_name(self) -> str:
        return "ostinato"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **keywords: Any) -> list[int]:
        return self.text.encode(string).tolist()

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Of each continuation after its context, and whether each of its tokens is the likeliest."""
        pairs = []
        for request in requests:
            context, continuation = request.args
            pairs.append(self._encode_pair(context, continuation) if context else ([], self.tok_encode(continuation)))
        return self._loglikelihood_tokens([(request.args, *pair) for request, pair in zip(requests, pairs)])

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Of each text, from its beginning to its end."""
        texts = [self.tok_encode(request.args[0]) for request in requests]
        return [total for total, _ in self._loglikelihood_tokens([(None, [], text) for text in texts])]

    def _loglikelihood_tokens(self, requests: list[tuple[Any, list[int], list[int]]], **keywords: Any) -> Any:
        prefix = [] if self.begins_with is None else [self.begins_with]
        totals, greedy = [0.0] * len(requests), [True] * len(requests)
        wholes, firsts = [], []  # tokens, and from which position on the next one counts
        for i, (_, context, continuation) in enumerate(requests):
            before = context or prefix
            if continuation and not before:
                totals[i], greedy[i] = -math.log(self.model.vocab_size), self.model.vocab_size == 1
            wholes.append([*before, *continuation])
            firsts.append(max(len(before) - 1, 0))

        def count(i: int, begin: int, log_p: Tensor) -> None:
            """Add what the logs of probabilities (T, V), of positions from begin on, say of sequence i."""
            targets = torch.tensor(wholes[i][begin + 1 : begin + 1 + len(log_p)], device=log_p.device)
            log_p = log_p[: len(targets)]
            totals[i] += float(log_p.gather(1, targets[:, None]).sum(dtype=torch.float64))
            greedy[i] = greedy[i] and bool((log_p.argmax(1) == targets).all())

        def read(begin: int, end: int, state: State | None, group: Sequence[int]) -> State:
            """What several share is one row; where it counts for none of them, no probabilities are made."""
            row, first = torch.tensor([wholes[group[0]][begin:end]]), min(max(firsts[i], begin) for i in group)
            self.read += end - begin
            if first > begin:
                state = prefill(self.model, row[:, : min(first, end) - begin], state)
            for at in range(first, end, CHUNK):
                x, state = self._hidden(row[:, at - begin : min(at + CHUNK, end) - begin], state)
                log_p = self._log_p(x)
                for i in group:
                    skip = max(firsts[i] - at, 0)
                    if skip < len(log_p):
                        count(i, at + skip, log_p[skip:])
            assert state is not None
            return state

        def finish(leaves: list[tuple[int, int, State | None]]) -> None:
            """What sequences have for themselves, as a batch: filled up behind, where it disturbs nothing."""
            rests = [torch.tensor(wholes[i][depth:-1]) for i, depth, _ in leaves]
            before = states.stack([self.model.initial_state(1) if state is None else state for _, _, state in leaves])
            rows, state = torch.nn.utils.rnn.pad_sequence(rests, batch_first=True), before
            self.read += sum(map(len, rests))
            for at in range(0, rows.shape[1], CHUNK):
                x, state = self._hidden(rows[:, at : at + CHUNK], state)
                for row, (i, depth, _) in enumerate(leaves):
                    begin = max(depth + at, firsts[i])
                    end = min(depth + at + x.shape[1], len(wholes[i]) - 1)
                    if begin < end:
                        count(i, begin, self._log_p(x[row : row + 1, begin - depth - at : end - depth - at]))

        queue: list[tuple[int, int, State | None]] = []
        for leaf in walk([whole[:-1] for whole in wholes], read):
            if leaf[1] < len(wholes[leaf[0]]) - 1:
                queue.append(leaf)
            if len(queue) == self.batch:
                finish(queue)
                queue = []
        if queue:
            finish(queue)
        return list(zip(totals, greedy))

    def _hidden(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """What the head reads, (B, T) -> (B, T, D): it makes probabilities of no more than what is asked for."""
        tokens = tokens.to(next(self.model.parameters()).device)
        with undisturbed(self.model):
            return self.model.hidden(tokens, state or self.model.initial_state(len(tokens)), None)  # pyright: ignore[reportArgumentType]

    def _log_p(self, x: Tensor) -> Tensor:
        """The logs of probabilities of each next token, (1, T, D) -> (T, V)."""
        with undisturbed(self.model):
            return self.model.logits(x)[0].float().log_softmax(-1)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text that follows each context, up to one of the words that end it."""
        prefix = [] if self.begins_with is None else [self.begins_with]
        contexts = [self.tok_encode(request.args[0]) or prefix for request in requests]
        if not all(contexts):
            raise ValueError("an answer follows a context of at least 1 token; this task has one without")

        def read(begin: int, end: int, state: State | None, group: Sequence[int]) -> State:
            return prefill(self.model, torch.tensor([contexts[group[0]][begin:end]]), state)

        answers = [""] * len(requests)
        for i, depth, state in walk([context[:-1] for context in contexts], read):
            answers[i] = self._answer(contexts[i][depth:], state, dict(requests[i].args[1]))
        return answers

    def _answer(self, tokens: list[int], state: State | None, wanted: dict[str, Any]) -> str:
        until = wanted.pop("until", None) or []
        until = [until] if isinstance(until, str) else until
        steps = wanted.pop("max_gen_toks", NEW_TOKENS)
        if not wanted.pop("do_sample", False):
            wanted = {name: value for name, value in wanted.items() if name not in FILTERS} | {"temperature": 0.0}
        if unknown := wanted.keys() - FILTERS:
            raise ValueError(f"an answer is drawn with {', '.join(sorted(FILTERS))}; this task asks for {min(unknown)}")
        decoder, text = self.text.stream(), ""
        for token, _ in stream(self.model, torch.tensor([tokens]), steps, Sampler(**wanted), state):
            if int(token) in self.ends_with:
                break
            text += decoder.add(int(token))
            if ends := [text.index(word) for word in until if word and word in text]:
                return text[: min(ends)]
        return text + decoder.finish()


FILTERS = {"temperature", "top_k", "top_p", "min_p"}


def harness_run(
    run: Run,
    tasks: Sequence[str],
    folder: str | Path | None = None,
    *,
    batch_size: int = 8,
    device: str = "auto",
    limit: int | None = None,
    fewshot: int | None = None,
) -> dict[str, Any]:
    """What lm-eval finds out about the newest weights of a run.

    tasks: names of tasks and groups of lm-eval
    folder: tasks of one's own, as YAML files; without it, those that lm-eval brings
    batch_size: sequences that are read at a time
    device: where to compute; "auto" takes the GPU if there is one
    limit: documents of each task, the first ones; None for all
    fewshot: examples before each question; None for what the task says
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    begins, ends = special_tokens(run)
    model = HarnessLM(run.model(device=pick_device(device)), run.tokenizer(), batch_size, begins, ends)
    manager = TaskManager(include_path=None if folder is None else str(folder), include_defaults=folder is None)
    for task in tasks:
        if task not in manager.all_tasks:
            where = "lm-eval" if folder is None else folder
            raise ValueError(f"there is no task {task!r} in {where}{did_you_mean(task, manager.all_tasks)}")
    ask: Any = simple_evaluate  # its decorator hides its arguments from checkers
    found = ask(model, tasks=list(tasks), task_manager=manager, limit=limit, num_fewshot=fewshot, log_samples=False)
    return {
        "run": str(run.folder),
        "tokens_read": model.read,
        **{name: found[name] for name in ("results", "n-samples")},
    }


def special_tokens(run: Run) -> tuple[int | None, frozenset[int]]:
    """The token that texts begin with, which is one that ends them where no other is known, and those that end them."""
    begin, ends = run.begin_of_text(), run.end_of_text()
    return (min(ends, default=None) if begin is None else begin), ends


def show(result: dict[str, Any]) -> None:
    """Print the figures of each task, with their standard errors where lm-eval has them."""
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "measure", "value", "standard error", "documents")
    for task, measures in result["results"].items():
        documents = str(result["n-samples"].get(task, {}).get("effective", ""))
        for name, value in measures.items():
            measure, _, kind = name.partition(",")
            if kind and not measure.endswith("_stderr"):
                error = measures.get(f"{measure}_stderr,{kind}")
                number = f"{value:.4f}" if isinstance(value, float) else str(value)
                table.add_row(task, measure, number, f"{error:.4f}" if isinstance(error, float) else "", documents)
    Console().print(table)
