"""Where a subject stands among a prompt's tokens, and what a linear map is given at one of the tokens."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from kebench.errors import BadSetting, NotFound
from kebench.models.layers import linear_maps

TokenPlace = Literal["subject_first", "subject_last", "last"]
"""The first or last token of the subject, or the last token that the model reads before it answers."""


class AboutSubject(Protocol):
    """A prompt and what it is about, such as an `Edit`."""

    @property
    def prompt(self) -> str:
        """The input x."""

    @property
    def subject(self) -> str | None:
        """A substring of the prompt, where it is known."""


def find_subject(prompt: str, subject: str) -> tuple[int, int]:
    """The characters of a prompt that are its subject: where they start, and where they stop.

    The first occurrence as whole words counts; where there is none, the first within words; then likewise
    whatever the case of the letters.

    Raises:
        BadSetting: the prompt does not contain the subject.
    """
    text = re.escape(subject.strip())
    for flags in (re.NOFLAG, re.IGNORECASE):
        for pattern in (rf"(?<!\w){text}(?!\w)", text):
            if text and (found := re.search(pattern, prompt, flags)):
                return found.span()
    raise BadSetting(f"subject: found no '{subject}' in the prompt '{prompt}', wanted a part of it")


def token_span(
    tokenizer: PreTrainedTokenizerBase, text: str, characters: tuple[int, int], max_tokens: int
) -> range:
    """The positions of the tokens that hold some of a text's characters, in the text cut to `max_tokens`.

    Raises:
        BadSetting: one of these tokens is cut off, or the tokenizer does not tell where its tokens stand.
    """
    if not tokenizer.is_fast:
        raise BadSetting(
            f"tokenizer {type(tokenizer).__name__}: found one that does not tell where in a text its tokens"
            " stand, wanted a fast one"
        )
    start, stop = characters

    def holding(offsets: Sequence[tuple[int, int]]) -> list[int]:
        return [place for place, (first, end) in enumerate(offsets) if max(first, start) < min(end, stop)]

    whole = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    cut = tokenizer(text, truncation=True, max_length=max_tokens, return_offsets_mapping=True)
    found = holding(cut["offset_mapping"])
    if not found or len(found) != len(holding(whole)):
        raise BadSetting(
            f"subject: found '{text[start:stop]}' beyond the {max_tokens} tokens that '{text}' is cut to,"
            " wanted it within them"
        )
    return range(found[0], found[-1] + 1)


class FirstInputs:
    """What one linear map is given when a network first reads a batch of prompts.

    Later passes, in which decoding adds a token to what is cached, are not looked at.
    """

    def __init__(self, network: nn.Module, layer: str) -> None:
        """`layer`: the name of the map's weight."""
        maps = linear_maps(network)
        if layer not in maps:
            raise NotFound("linear map", layer, maps)
        self._network, self._layer, self._map = network, layer, maps[layer]
        self._given: list[Tensor] = []
        self._mask: Tensor | None = None
        self._read = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the first pass of the network is watched."""

        def before_pass(_: nn.Module, __: Any, inputs: dict[str, Any]) -> None:
            if not self._read:
                self._mask = inputs["attention_mask"]

        def after_pass(*_: object) -> None:
            self._read = True

        def before_map(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not self._read:
                self._given.append(inputs[0].detach())

        handles = [
            self._network.register_forward_pre_hook(before_pass, with_kwargs=True),
            self._network.register_forward_hook(after_pass),
            self._map.register_forward_pre_hook(before_map),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def at(self, places: Sequence[int], place: TokenPlace) -> Float[Tensor, "batch d_in"] | None:
        """The vector that the map is given at one token of each row.

        Args:
            places: of each row, the token's position among its prompt's tokens, wherever the row is padded.
            place: which token that is.

        Returns:
            (batch, d_in). None where several rows cannot be told apart: then they must be asked one by one.

        Raises:
            BadSetting: the map is not called exactly once, or reads something other than the prompt's tokens.
        """
        if len(self._given) != 1:
            raise BadSetting(
                f"layer {self._layer}: found it called {len(self._given)} times while a prompt is read,"
                " wanted a layer that is called once"
            )
        assert self._mask is not None
        (given,), (rows, width) = self._given, self._mask.shape
        column = self._mask.long().argmax(1) + torch.tensor(places, device=self._mask.device)  # (batch,)
        if given.shape[:-1] == (rows, width):
            return given[torch.arange(rows, device=given.device), column]
        if given.shape[:-1] == (rows, 1):  # a decoder's, which has read only the token that it starts with
            if place == "last":
                return given[:, 0]
            raise BadSetting(
                f"layer {self._layer}: found a decoder's, which does not read the subject; wanted one of the"
                " encoder, or of the decoder's attention to it, or the place 'last'"
            )
        if rows > 1:
            return None
        if given[..., 0].numel() == width:
            return given.reshape(width, -1)[column]
        raise BadSetting(
            f"layer {self._layer}: found inputs of the shape {tuple(given.shape)} for a prompt of {width}"
            " tokens, wanted one vector a token"
        )
