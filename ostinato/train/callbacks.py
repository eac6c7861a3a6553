"""What may look on while a model is trained. Nothing that a callback does changes the numbers."""

from typing import Any

from ostinato.runs import Run


class Callback:
    """Is told what happens; a subclass writes what it is interested in."""

    def begin(self, run: Run, step: int, steps: int) -> None:
        """Training begins, or goes on, after `step` of `steps` updates."""

    def step(self, step: int) -> None:
        """An update was made."""

    def metrics(self, line: dict[str, Any]) -> None:
        """A line of metrics was written, of training or (with the key "valid_loss") of validation."""

    def end(self) -> None:
        """Training is over, or was stopped by an error."""


class TensorBoard(Callback):
    """Writes the metrics where TensorBoard reads them: `tensorboard --logdir runs`."""

    def begin(self, run: Run, step: int, steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # what was written after the checkpoint from which training goes on is written again
        self._writer = SummaryWriter(run.folder / "tensorboard", purge_step=step + 1)

    def metrics(self, line: dict[str, Any]) -> None:
        for name, value in line.items():
            if name != "step":
                part, _, rest = name.partition("_")
                tag = f"valid/{rest}" if part == "valid" else f"train/{name}"
                self._writer.add_scalar(tag, value, line["step"])
        self._writer.flush()

    def end(self) -> None:
        self._writer.close()
