"""Does the model fit the card? The arithmetic, done before anything is loaded.

A card must hold the weights, what vLLM works with, and the keys and values of at least one talk.
What is left decides how long a talk may be. Figures are bytes unless their name says otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import Refused
from agent.gpu import GIB, MODERN, Card

SHARE = 0.9
"""Of a card's memory; the rest is for the driver and what cannot be foreseen."""
WORKSPACE = 1.5 * GIB
"""CUDA's own, activations and graphs; measured by others at 1 to 2 GiB for models of 7B."""
WORKSPACE_SHARE = 0.05
"""More for larger models, as a share of their weights."""
ADAPTERS = 0.5 * GIB
"""Room for adapters that are loaded."""
LEAST_TOKENS = 2048
"""A talk shorter than this is not worth a start."""
STEP = 256
"""A context that had to be cut is a multiple of this."""


@dataclass(frozen=True)
class Needs:
    """What a model asks of a card."""

    weights: int
    per_token: int
    """Keys and values of one token; 0 where the configuration does not say."""
    longest: int
    """Tokens that the model can read at most; 0 where the configuration does not say."""
    heads: int
    key_heads: int
    """Among so many cards the keys and values of a token can be shared; further ones repeat."""
    dtype: str
    quantised: bool


@dataclass(frozen=True)
class Fit:
    """vLLM's flags, and how they came about."""

    flags: dict[str, str]
    arithmetic: str


def needs(config: dict[str, Any], weights: int) -> Needs:
    """Read from a model's `config.json`; `weights` is the size of its files."""
    text = config.get("text_config") or config
    dtype = str(text.get("dtype") or text.get("torch_dtype") or config.get("dtype") or "bfloat16")
    quantised = bool(config.get("quantization_config") or text.get("quantization_config"))
    if dtype == "float32" and not quantised:
        weights //= 2  # vLLM halves what was saved in full
    longest = int(text.get("max_position_embeddings") or text.get("n_positions") or 0)
    heads = int(text.get("num_attention_heads") or text.get("n_head") or 0)
    per_token, key_heads = _per_token(text, heads)
    return Needs(weights, per_token, longest, heads, key_heads, dtype, quantised)


def _per_token(text: dict[str, Any], heads: int) -> tuple[int, int]:
    """(bytes, heads of keys)"""
    layers = int(text.get("num_hidden_layers") or text.get("n_layer") or 0)
    if rank := text.get("kv_lora_rank"):  # one compressed vector instead of keys and values
        return layers * (int(rank) + int(text.get("qk_rope_head_dim") or 0)) * 2, 1
    width = int(text.get("hidden_size") or text.get("n_embd") or 0)
    size = int(text.get("head_dim") or (width // heads if heads else 0))
    key_heads = int(text.get("num_key_value_heads") or heads)
    return 2 * layers * key_heads * size * 2, key_heads


def fit(
    name: str,
    need: Needs,
    cards: Sequence[Card],
    share: float = 0,
    context: int = 0,
    adapters: bool = False,
) -> Fit:
    """The flags with which the model runs on these cards; `Refused` says why it cannot.

    `share` of the memory and `context` in tokens are what the settings ask for; 0 leaves it open.
    """
    count = len(cards) if need.heads and need.heads % len(cards) == 0 else 1
    used = cards[:count]  # vLLM takes the first ones, and of each the same share
    card, free = min(used, key=lambda one: one.total), min(one.free / one.total for one in used)
    share = share or max(0.0, min(SHARE, int(free * 100 - 1) / 100))
    usable, weights = card.total * share, need.weights / count
    work = WORKSPACE + WORKSPACE_SHARE * weights + (ADAPTERS if adapters else 0)
    left, per_token = usable - weights - work, need.per_token / max(1, min(count, need.key_heads))
    wanted = context or need.longest
    sums = (
        f"{gib(weights)} of weights and {gib(work)} to work with, out of {gib(usable)} "
        f"({share:.2f} of {card.name} with {gib(card.total)})"
    )
    # What is asked for must fit, or it is not what was asked for.
    least = context or min(LEAST_TOKENS, need.longest or LEAST_TOKENS)
    if left < least * per_token or left <= 0:
        more = f", and {gib(least * per_token)} for a talk of {least:,} tokens" if per_token else ""
        raise Refused(
            f"{name} does not fit: it needs {sums}{more}; take a smaller or quantised model, a "
            "shorter MAX_MODEL_LEN, or a larger card."
        )
    flags = {"--gpu-memory-utilization": f"{share:.2f}"}
    if count > 1:
        flags["--tensor-parallel-size"] = str(count)
    if card.capability < MODERN and need.dtype == "bfloat16":
        flags["--dtype"] = "half"
    said = f"{name}: {sums}"
    if per_token and wanted:
        room = int(left / per_token)
        length = wanted if room >= wanted else room // STEP * STEP
        flags["--max-model-len"] = str(length)
        said += f"; {gib(left)} are left, {gib(per_token * 1000)} for 1,000 tokens"
        said += f": a talk of {length:,}" + ("" if length == wanted else f" of {wanted:,}")
    elif context:
        flags["--max-model-len"] = str(context)
    return Fit(flags, said + ".")


def gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB" if size < GIB else f"{size / GIB:.1f} GiB"
