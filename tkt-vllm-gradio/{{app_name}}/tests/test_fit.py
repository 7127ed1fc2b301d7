"""Does a model fit a card? The figures are those of real models and cards."""

from __future__ import annotations

from typing import Any

import pytest

from agent.errors import Refused
from agent.fit import fit, needs
from agent.gpu import GIB, MODERN, Card

MIB = 2**20
QWEN_7B = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
}  # fmt: skip
QWEN_14B = {
    "hidden_size": 5120, "num_hidden_layers": 48, "num_attention_heads": 40,
    "num_key_value_heads": 8, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_2_7B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "max_position_embeddings": 4096, "torch_dtype": "float16",
}  # fmt: skip
MISTRAL_7B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 32768, "torch_dtype": "bfloat16",
}  # fmt: skip
LLAMA_3_70B = {
    "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "torch_dtype": "bfloat16",
}  # fmt: skip
DEEPSEEK_V2_LITE = {
    "hidden_size": 2048, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "max_position_embeddings": 163840, "torch_dtype": "bfloat16",
}  # fmt: skip


def card(mib: int, free: float = 1, capability: tuple[int, int] = (8, 9)) -> Card:
    return Card("a card", mib * MIB, int(mib * MIB * free), capability)


RTX_4090 = card(24564)
RTX_4000_ADA = card(20475)
RTX_4060 = card(8188)
TESLA_T4 = card(15360, capability=(7, 5))


@pytest.mark.parametrize(
    ("config", "gigabytes", "per_token"),
    [
        (QWEN_7B, 15.23, 57_344),
        (LLAMA_2_7B, 13.48, 524_288),
        (MISTRAL_7B, 14.48, 131_072),
        (DEEPSEEK_V2_LITE, 31.41, 31_104),
    ],
    ids=["Qwen2.5-7B", "Llama-2-7B", "Mistral-7B-v0.1", "DeepSeek-V2-Lite"],
)
def test_a_token_takes_keys_and_values_of_each_layer(
    config: dict[str, Any], gigabytes: float, per_token: int
) -> None:
    size = int(gigabytes * 1e9)

    need = needs(config, size)

    assert (need.weights, need.per_token) == (size, per_token)
    assert need.longest == config["max_position_embeddings"]


@pytest.mark.parametrize(
    ("config", "gigabytes", "tokens"),
    [(QWEN_7B, 15.23, "32768"), (LLAMA_2_7B, 13.48, "4096"), (MISTRAL_7B, 14.48, "32768")],
    ids=["Qwen2.5-7B", "Llama-2-7B", "Mistral-7B-v0.1"],
)
def test_a_7b_model_starts_on_24_gb_without_flags(
    config: dict[str, Any], gigabytes: float, tokens: str
) -> None:
    found = fit("a model", needs(config, int(gigabytes * 1e9)), [RTX_4090])

    assert found.flags == {"--gpu-memory-utilization": "0.90", "--max-model-len": tokens}


def test_the_arithmetic_can_be_read() -> None:
    found = fit("Qwen2.5-7B-Instruct", needs(QWEN_7B, 15_230_000_000), [RTX_4090])

    assert found.arithmetic == (
        "Qwen2.5-7B-Instruct: 14.2 GiB of weights and 2.2 GiB to work with, out of 21.6 GiB "
        "(0.90 of a card with 24.0 GiB); 5.2 GiB are left, 0.05 GiB for 1,000 tokens: a talk of "
        "32,768."
    )


def test_where_less_is_left_a_talk_is_cut_to_what_fits() -> None:
    found = fit("Mistral-7B", needs(MISTRAL_7B, 14_480_000_000), [RTX_4000_ADA])

    tokens = int(found.flags["--max-model-len"])
    left = 20475 * MIB * 0.9 - 14_480_000_000 * 1.05 - 1.5 * GIB
    assert 2048 <= tokens < 32768
    assert tokens * 131_072 <= left < (tokens + 256) * 131_072
    assert found.arithmetic.endswith(f": a talk of {tokens:,} of 32,768.")


def test_a_70b_model_is_refused_on_24_gb_with_the_sum() -> None:
    with pytest.raises(Refused) as refusal:
        fit("Llama-3-70B", needs(LLAMA_3_70B, 141_000_000_000), [RTX_4090])

    assert str(refusal.value) == (
        "Llama-3-70B does not fit: it needs 131.3 GiB of weights and 8.1 GiB to work with, out of "
        "21.6 GiB (0.90 of a card with 24.0 GiB), and 0.62 GiB for a talk of 2,048 tokens; take a "
        "smaller or quantised model, a shorter MAX_MODEL_LEN, or a larger card."
    )


def test_a_7b_model_of_4_bits_fits_a_card_of_8_gb() -> None:
    awq = QWEN_7B | {"torch_dtype": "float16", "quantization_config": {"quant_method": "awq"}}

    found = fit("Qwen2.5-7B-Instruct-AWQ", needs(awq, 5_570_000_000), [RTX_4060])

    assert 2048 <= int(found.flags["--max-model-len"]) < 8192


def test_a_7b_model_of_16_bits_does_not_fit_a_card_of_16_gb() -> None:
    with pytest.raises(Refused, match="does not fit"):
        fit("Qwen2.5-7B-Instruct", needs(QWEN_7B, 15_230_000_000), [card(16376)])


@pytest.mark.parametrize("name", ["torch_dtype", "dtype"])
def test_what_was_saved_as_float32_counts_half(name: str) -> None:
    full = {k: v for k, v in LLAMA_2_7B.items() if k != "torch_dtype"} | {name: "float32"}

    assert needs(full, 26_960_000_000).weights == 13_480_000_000


def test_what_is_quantised_counts_as_it_is_whatever_its_dtype_says() -> None:
    config = QWEN_7B | {"torch_dtype": "float32", "quantization_config": {"bits": 4}}

    need = needs(config, 5_570_000_000)

    assert need.quantised
    assert need.weights == 5_570_000_000


def test_a_card_that_lacks_bfloat16_is_told_to_take_half() -> None:
    awq = QWEN_7B | {"quantization_config": {"quant_method": "awq"}}

    older = fit("a model", needs(awq, 5_570_000_000), [TESLA_T4])
    float16 = fit("a model", needs(awq | {"torch_dtype": "float16"}, 5_570_000_000), [TESLA_T4])
    modern = fit("a model", needs(awq, 5_570_000_000), [card(15360, capability=MODERN)])

    assert older.flags["--dtype"] == "half"
    assert "--dtype" not in float16.flags
    assert "--dtype" not in modern.flags


def test_two_cards_share_a_model_that_one_cannot_hold() -> None:
    need = needs(QWEN_14B, 29_540_000_000)
    with pytest.raises(Refused):
        fit("Qwen2.5-14B-Instruct", need, [RTX_4090])

    found = fit("Qwen2.5-14B-Instruct", need, [RTX_4090, RTX_4090])

    assert found.flags["--tensor-parallel-size"] == "2"
    assert found.flags["--max-model-len"] == "32768"


def test_cards_that_the_heads_cannot_be_shared_among_are_left_alone() -> None:
    found = fit("Qwen2.5-7B", needs(QWEN_7B, 15_230_000_000), [RTX_4090] * 3)

    assert "--tensor-parallel-size" not in found.flags


def test_keys_and_values_that_cannot_be_shared_are_on_each_card() -> None:
    """2 heads of keys on 4 cards: each holds a half. A compressed vector: each holds all of it."""
    qwen_3b = {
        "hidden_size": 2048, "num_hidden_layers": 36, "num_attention_heads": 16,
        "num_key_value_heads": 2, "max_position_embeddings": 10**7, "torch_dtype": "bfloat16",
    }  # fmt: skip
    deepseek = DEEPSEEK_V2_LITE | {"max_position_embeddings": 10**7}

    def room(config: dict[str, Any], weights: int, share: int) -> tuple[int, int]:
        """(what it found, what is right for a card that holds a `share`-th of each token)"""
        found = fit("a model", needs(config, weights), [RTX_4090] * 4)
        left = 24564 * MIB * 0.9 - weights / 4 * 1.05 - 1.5 * GIB
        right = int(left / (needs(config, weights).per_token / share)) // 256 * 256
        return int(found.flags["--max-model-len"]), right

    for found, right in (room(qwen_3b, 6_170_000_000, 2), room(deepseek, 31_410_000_000, 1)):
        assert found == right


def test_a_card_that_is_partly_in_use_lowers_the_share() -> None:
    found = fit("Qwen2.5-7B", needs(QWEN_7B, 15_230_000_000), [card(24564, free=0.8)])

    share = float(found.flags["--gpu-memory-utilization"])
    assert share == pytest.approx(0.79, abs=0.011)
    assert share < 0.8, "vLLM refuses to start where less is free than it is told to take"


def test_of_two_cards_the_one_with_less_free_memory_decides() -> None:
    busy = card(24564, free=0.8)

    for cards in ([RTX_4090, busy], [busy, RTX_4090]):
        found = fit("Qwen2.5-14B-Instruct", needs(QWEN_14B, 29_540_000_000), cards)
        assert float(found.flags["--gpu-memory-utilization"]) < 0.8


def test_a_card_that_is_full_is_refused() -> None:
    with pytest.raises(Refused, match=r"out of 0\.00 GiB \(0\.00 of a card"):
        fit("Qwen2.5-7B", needs(QWEN_7B, 15_230_000_000), [card(24564, free=0)])


def test_what_the_settings_ask_for_is_taken() -> None:
    found = fit("Qwen2.5-7B", needs(QWEN_7B, 15_230_000_000), [RTX_4090], 0.85, 8000)

    assert found.flags["--gpu-memory-utilization"] == "0.85"
    assert found.flags["--max-model-len"] == "8000"


def test_a_talk_that_was_asked_for_and_does_not_fit_is_refused() -> None:
    need = needs(MISTRAL_7B, 14_480_000_000)

    with pytest.raises(Refused, match=r"and 3\.9 GiB for a talk of 32,000 tokens;.* MAX_MODEL_LEN"):
        fit("Mistral-7B", need, [RTX_4000_ADA], context=32_000)


def test_a_shorter_talk_is_taken_when_it_is_asked_for() -> None:
    """The weights of Llama 2 with 13B, of which a talk of 2,048 tokens is too much for the card."""
    config = LLAMA_2_7B | {
        "hidden_size": 5120, "num_hidden_layers": 40, "num_attention_heads": 40,
        "num_key_value_heads": 40,
    }  # fmt: skip
    need = needs(config, 26_030_000_000)
    with pytest.raises(Refused, match="a talk of 2,048 tokens"):
        fit("Llama-2-13B", need, [card(32000)])

    assert fit("Llama-2-13B", need, [card(32000)], context=512).flags["--max-model-len"] == "512"


def test_a_model_that_reads_less_than_the_shortest_talk_is_taken_as_it_is() -> None:
    gpt2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}

    need = needs(gpt2, 548_000_000)

    assert need.per_token == 2 * 12 * 768 * 2
    assert fit("gpt2", need, [RTX_4060]).flags["--max-model-len"] == "1024"


def test_room_for_adapters_is_kept() -> None:
    need = needs(MISTRAL_7B, 14_480_000_000)

    plain = fit("Mistral-7B", need, [RTX_4000_ADA])
    adapted = fit("Mistral-7B", need, [RTX_4000_ADA], adapters=True)

    lost = int(plain.flags["--max-model-len"]) - int(adapted.flags["--max-model-len"])
    assert lost * 131_072 == pytest.approx(0.5 * GIB, abs=256 * 131_072)


def test_a_model_that_also_sees_is_measured_by_its_part_for_text() -> None:
    config = {"vision_config": {"hidden_size": 1280}, "dtype": "bfloat16", "text_config": QWEN_7B}

    assert needs(config, 16_600_000_000).per_token == 57_344


def test_a_configuration_that_says_little_is_no_reason_to_refuse() -> None:
    need = needs({"kv_lora_rank": None, "head_dim": None}, 1_000_000_000)

    assert (need.per_token, need.longest, need.heads, need.dtype) == (0, 0, 0, "bfloat16")
    assert fit("a model", need, [RTX_4090] * 2).flags == {"--gpu-memory-utilization": "0.90"}
    assert fit("a model", need, [RTX_4090], context=4096).flags["--max-model-len"] == "4096"
