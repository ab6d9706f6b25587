"""A causal language model one decoder block at a time, so that neither it nor its activations need fit.

The weights of a block are read from the safetensors files when its turn comes and dropped after it;
hidden states wait in host memory. The device holds one block and one batch.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from rac import batching, memory, sources
from rac.errors import RacError, one_line
from rac.models.checkpoint import default_device
from rac.models.skeleton import decoder_blocks, load, locate, output_embedding, skeleton

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}  # what caches hold, and what keeps a GPU busy


class Step:
    """A block on the device, and the batches that are to go through it.

    Attributes:
        index: the block's number; the number of blocks for the output embedding.
        name: the module's name in the model, such as model.layers.3.
        module: the block with its weights, or the output embedding. Hooks and changed weights count.
        batches: the sequences of each batch, by number; they are padded on the right.
    """

    def __init__(self, walk: "_Walk", index: int):
        self._walk = walk
        self._kept: set[int] = set()
        self.index = index
        self.name, self.module = walk.stops[index]
        self.batches = walk.batches

    def layer(self, name: str) -> nn.Module:
        """The module called `name` in the model: the block's own, or one in it."""
        return self.module.get_submodule(name.removeprefix(self.name).removeprefix("."))

    def inputs(self, batch: int) -> torch.Tensor:
        """Hidden states [sequences, longest, hidden] before the block, on the device."""
        if batch in self._kept:
            raise ValueError(f"{self.name}: batch {batch} has gone on; its inputs are not kept")
        return self._walk.states[batch].to(self._walk.device, non_blocking=True)

    def forward(self, batch: int, keep: bool = True) -> torch.Tensor:
        """Run a batch through the block with its present weights.

        Args:
            batch: its number.
            keep: the outputs take the place of the inputs, and are what the next block sees. What no
                call has kept when the walk goes on is run then.

        Returns:
            Hidden states [sequences, longest, hidden] after the block; for the output embedding what
            it is given, since logits of a whole batch would be large.
        """
        hidden = self.inputs(batch)
        args, kwargs = self._walk.call(self.index, hidden, inputs_embeds=hidden)
        if self.index == len(self._walk.blocks):
            return args[0]
        output = self._walk.run(self.module, args, kwargs, hidden)
        if keep:
            self._walk.states[batch] = self._walk.wait(output)
            self._kept.add(batch)
        return output

    def finish(self) -> None:
        """Run what has not been kept yet."""
        for batch in range(len(self.batches)):
            if batch not in self._kept:
                self.forward(batch)


def walk(
    model: Path,
    dtype: str,
    sequences: list[sources.Sequence],
    batch_tokens: int | None = None,
    spill: Path | None = None,
) -> Iterator[Step]:
    """Take sequences through a model's decoder blocks in turn, and to its output embedding.

    Padding is on the right: with causal attention no real token sees it. Weights that a consumer
    changes before it asks for the next step are those that make the next step's inputs.

    Args:
        model: the Hugging Face folder.
        dtype: what to run in (float32, bfloat16, float16).
        sequences: token ids.
        batch_tokens: tokens a batch, padding included; BATCH_TOKENS of the device without.
        spill: a folder of a disk for hidden states to wait on; in memory without.

    Raises:
        RacError: the folder is missing, damaged, or a tensor is not what config.json says; the disk
            is full.
    """
    network = skeleton(model, dtype)
    on_the_way = _Walk(network, model, sequences, batch_tokens, spill)
    for index, (_, module) in enumerate(on_the_way.stops):
        on_the_way.load(module)
        step = Step(on_the_way, index)
        yield step
        if index < len(on_the_way.blocks):
            step.finish()
        module.to("meta")


def within_memory(run: Callable[[int], None], batch_tokens: int | None, longest: int) -> None:
    """Call `run` with the tokens of a batch, halved and again as long as the device's memory is short.

    Args:
        run: what walks; it leaves nothing behind when it breaks off, and begins anew. What it does
            beside the walk may be what is short, and no fewer tokens help.
        batch_tokens: the first try; BATCH_TOKENS of the device without.
        longest: tokens of the longest sequence, which no batch can be smaller than.

    Raises:
        RacError: memory is short with the longest sequence by itself.
    """
    tokens = batch_tokens or BATCH_TOKENS[default_device()]
    while True:
        try:
            return run(tokens)
        except torch.OutOfMemoryError as error:
            line = one_line(error)
            if tokens <= longest:
                raise RacError(
                    f"memory is short with only a sequence of {longest} tokens at once: {line}"
                ) from None
        tokens = max(tokens // 2, longest)
        memory.go_on(f"again with {tokens} tokens at once", line)


class _Walk:
    """What the steps of a walk share: the model's skeleton, and the hidden states that wait."""

    def __init__(
        self,
        network: "PreTrainedModel",
        model: Path,
        sequences: list[sources.Sequence],
        batch_tokens: int | None,
        spill: Path | None,
    ):
        self.network, self.spill = network, spill
        self.located = locate(network, model)
        self.device = default_device()
        self.names = {module: name for name, module in network.named_modules()}
        self.blocks = list(decoder_blocks(network))
        head = output_embedding(network)
        gates = [*self.blocks, *([head] if head else [])]
        self.stops = [(self.names[module], module) for module in gates]
        self.tuple_size: int | None = None  # of what a block returns; None for a plain tensor
        lengths = [len(sequence.token_ids) for sequence in sequences]
        self.batches = list(batching.batches(lengths, batch_tokens or BATCH_TOKENS[self.device]))

        embedding = network.get_input_embeddings()
        self.load(embedding)
        self.states = []
        for batch in self.batches:
            token_ids = pad_sequence([sequences[i].token_ids for i in batch], batch_first=True)
            args, kwargs = self.call(0, None, input_ids=token_ids.to(self.device))
            self.states.append(self.wait(args[0] if args else kwargs["hidden_states"]))
        embedding.to("meta")

    def load(self, module: nn.Module) -> None:
        prefix = self.names[module]
        names = [f"{prefix}.{name}" for name in module.state_dict()]
        load(self.network, names, self.located, self.device)

    def call(self, index: int, hidden: torch.Tensor | None, **inputs: Any) -> tuple[tuple, dict]:
        """The arguments that the model gives to stop `index`, when blocks before it give `hidden`.

        The model's own forward pass makes them (positions, masks, windows of each layer); it is left
        as soon as it gets there.
        """

        def stop(*args, **kwargs):
            raise _Reached(args, kwargs)

        def skip(*args, **kwargs):
            return (hidden,) + (None,) * (self.tuple_size - 1) if self.tuple_size else hidden

        for i, (_, module) in enumerate(self.stops):
            module.forward = stop if i == index else skip
        try:
            self.network(use_cache=False, **inputs)
        except _Reached as reached:
            return reached.arguments
        finally:
            for _, module in self.stops:
                del module.forward
        raise ValueError(f"{type(self.network).__name__} never runs {self.stops[index][0]}")

    def run(
        self, block: nn.Module, args: tuple, kwargs: dict, hidden: torch.Tensor
    ) -> torch.Tensor:
        """The block's outputs for `hidden`, in place of the hidden states of its arguments."""
        if not args:
            kwargs = kwargs | {"hidden_states": hidden}
        output = block(*((hidden, *args[1:]) if args else ()), **kwargs)
        if isinstance(output, tuple):
            self.tuple_size = len(output)
            return output[0]
        return output

    def wait(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states where they wait: pinned memory, or a file that has no name any more."""
        hidden = hidden.detach()
        if self.spill is not None:
            content = hidden.cpu().contiguous()
            try:
                with tempfile.NamedTemporaryFile(dir=self.spill) as file:
                    file.write(content.view(torch.uint8).numpy().data)
                    file.flush()
                    flat = torch.from_file(file.name, size=content.numel(), dtype=content.dtype)
            except OSError as error:
                raise RacError(f"cannot write {self.spill}: {error.strerror or error}") from None
            return flat.view(content.shape)
        if not hidden.is_cuda:
            return hidden
        pinned = torch.empty(hidden.shape, dtype=hidden.dtype, pin_memory=True)
        return pinned.copy_(hidden, non_blocking=True)


class _Reached(Exception):
    """Thrown out of the model's forward pass where it is to stop."""

    def __init__(self, args: tuple, kwargs: dict):
        self.arguments = args, kwargs
