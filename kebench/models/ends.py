"""Which tokens end an answer."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kebench.errors import BadSetting


def end_tokens(name: str, network: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end an answer, as in `network.generate()`: each of them does, as one is enough.

    They are the generation configuration's; chat models often have two. Where it names none that the
    network can say, the configuration's, else the tokenizer's.

    Returns:
        The token that targets end with comes first: the tokenizer's, if it is one of them.

    Raises:
        BadSetting: there is none, so that no answer would end.
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
    """The tokens as a generation configuration has them."""
    return ends[0] if len(ends) == 1 else list(ends)


def spelled(ids: list[int], ends: tuple[int, ...], tokenizer: PreTrainedTokenizerBase) -> str:
    """The answer that generated tokens spell: the text before the first token that ends it."""
    end = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    text = tokenizer.decode(ids[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return str(text).strip()
