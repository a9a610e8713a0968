"""Finds the tokens that end an answer."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kebench.errors import BadSetting


def end_tokens(name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Returns the tokens that end an answer. As in `network.generate()`, an answer ends at any one of them.

    They are the end-of-sequence tokens of the generation configuration; chat models often have two. If it has
    none in the network's vocabulary, those of the network's configuration are used; otherwise the
    tokenizer's.

    Returns:
        The tokens. Training targets end with the first one: the tokenizer's, if it is one of them.

    Raises:
        BadSetting: there is no such token, so no answer would end.
    """
    text = network.config.get_text_config(decoder=True)
    size = network.get_output_embeddings().weight.shape[0]
    for value in (
        getattr(network.generation_config, "eos_token_id", None),
        getattr(text, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        listed = [value] if isinstance(value, int) else value or ()
        ends = [token for token in dict.fromkeys(listed) if 0 <= token < size]
        if ends:
            return tuple(sorted(ends, key=lambda token: token != tokenizer.eos_token_id))  # stable
    raise BadSetting(f"model {name}: found no token that ends a sequence, so no answer would end")


def one_or_list(ends: tuple[int, ...]) -> int | list[int]:
    """Returns the tokens in the form used by a generation configuration: one token, or a list."""
    return ends[0] if len(ends) == 1 else list(ends)


def spelled(ids: list[int], ends: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> str:
    """Decodes generated tokens to an answer: the text before the first token that ends an answer."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip()
