# SPDX-License-Identifier: Apache-2.0
"""The families' models of make_golden.py: one or more of each, with the options that occur."""

BASE = dict(vocab_size=91, bos_token_id=1, eos_token_id=2, pad_token_id=0, hidden_size=32,
            intermediate_size=41, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=96, tie_word_embeddings=False)
GPT2 = dict(vocab_size=91, bos_token_id=1, eos_token_id=2, pad_token_id=0, n_embd=32, n_layer=2,
            n_head=4, n_positions=96, tie_word_embeddings=False)
LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, short_factor=[1.0, 1.1, 1.3, 1.6],
                long_factor=[1.5, 2.0, 3.5, 6.0], original_max_position_embeddings=32)


def base(**changes):
    return dict(BASE, **changes)


def gpt2(**changes):
    return dict(GPT2, **changes)


def falcon(**changes):
    c = base(bias=False, **changes)
    for key in ("intermediate_size", "num_key_value_heads"):
        del c[key]
    return c


def mpt(heads, width, **attn):
    return dict(vocab_size=91, bos_token_id=1, eos_token_id=2, d_model=width, n_heads=heads,
                n_layers=2, max_seq_len=96, tie_word_embeddings=False, attn_config=attn)


def bloom(heads, width, **changes):
    return dict(dict(vocab_size=91, bos_token_id=1, eos_token_id=2, hidden_size=width,
                     n_head=heads, n_layer=2, tie_word_embeddings=False), **changes)


def opt(**changes):
    return dict(dict(vocab_size=91, bos_token_id=1, eos_token_id=2, pad_token_id=0, hidden_size=32,
                     ffn_dim=41, num_hidden_layers=2, num_attention_heads=4,
                     max_position_embeddings=96, word_embed_proj_dim=32), **changes)


def rope(kind="default", **params):
    return dict(dict(rope_type=kind, rope_theta=10000.0), **params)


# name: (model type, stored dtype, config, options) as in make_golden.py. More options: rewrite =
# a function of rewrite.py that turns the checkpoint into another family's, keys = changes of
# config.json (None removes a key), gain = factor of the matrices, so that tied models do not
# repeat their input, attention = transformers' implementation of it, short = prompts that leave room below the original length of longrope.
MODELS = {
    "baichuan-alibi": ("llama", "bfloat16", base(
        num_attention_heads=6, num_key_value_heads=6, hidden_size=36, head_dim=6),
        dict(rewrite="baichuan", alibi=True)),
    "baichuan-rope": ("llama", "bfloat16", base(num_key_value_heads=4), dict(rewrite="baichuan")),
    "baichuan2-rope": ("llama", "float32", base(num_key_value_heads=4),
                       dict(rewrite="baichuan2", head_norm=True)),
    "bloom-6heads": ("bloom", "bfloat16", bloom(6, 36), {}),
    "bloom-normed-stream": ("bloom", "bfloat16", bloom(
        4, 32, apply_residual_connection_post_layernorm=True), {}),
    "chatglm": ("glm", "bfloat16", base(head_dim=8, partial_rotary_factor=0.5, rope_parameters=rope(
        rope_theta=20000.0, partial_rotary_factor=0.5)), dict(rewrite="chatglm")),
    "chatglm-all-heads": ("glm", "bfloat16", base(
        head_dim=8, num_key_value_heads=4, attention_bias=True, partial_rotary_factor=0.5),
        dict(rewrite="chatglm")),
    "deepseek-dense": ("llama", "bfloat16", base(num_key_value_heads=4),
                       dict(rewrite="deepseek")),
    "falcon-7b": ("falcon", "bfloat16", falcon(multi_query=True, parallel_attn=True), {}),
    "falcon-40b": ("falcon", "bfloat16", falcon(new_decoder_architecture=True, num_kv_heads=2), {}),
    "falcon-11b": ("falcon", "bfloat16", falcon(
        new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1), {}),
    # With eager attention transformers 5.12 adds Falcon's bias twice, with sdpa once, as published.
    "falcon-alibi": ("falcon", "bfloat16", dict(falcon(
        alibi=True, multi_query=False, parallel_attn=False), bias=True), dict(attention="sdpa")),
    "gemma": ("gemma", "bfloat16", base(
        head_dim=16, num_key_value_heads=1, tie_word_embeddings=True), dict(gain=2.5)),
    "gemma2": ("gemma2", "bfloat16", base(
        head_dim=8, sliding_window=8, query_pre_attn_scalar=12, attn_logit_softcapping=4.0,
        final_logit_softcapping=6.0, num_hidden_layers=3), {}),
    "gemma3-classic": ("gemma3_text", "bfloat16", base(
        head_dim=8, sliding_window=8, query_pre_attn_scalar=16, num_hidden_layers=3,
        sliding_window_pattern=2, rope_parameters=dict(
            full_attention=dict(rope_type="linear", rope_theta=50000.0, factor=4.0),
            sliding_attention=dict(rope_type="default", rope_theta=5000.0))),
        dict(keys=dict(rope_parameters=None, layer_types=None, _sliding_window_pattern=None,
                       sliding_window_pattern=2, rope_theta=50000.0, rope_local_base_freq=5000.0,
                       rope_scaling=dict(rope_type="linear", factor=4.0)))),
    "gemma3-modern": ("gemma3_text", "bfloat16", base(
        head_dim=8, sliding_window=8, query_pre_attn_scalar=16, num_hidden_layers=3,
        layer_types=["full_attention", "sliding_attention", "sliding_attention"],
        final_logit_softcapping=5.0), {}),
    "glm": ("glm", "bfloat16", base(head_dim=8, partial_rotary_factor=0.5), {}),
    "glm4": ("glm4", "bfloat16", base(
        head_dim=8, partial_rotary_factor=0.5, attention_bias=True), {}),
    "gpt2-base-names": ("gpt2", "bfloat16", gpt2(
        n_inner=40, scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=True),
        dict(rewrite="base_names", gain=2.0)),
    "gpt2-unscaled": ("gpt2", "bfloat16", gpt2(scale_attn_weights=False), {}),
    "gpt-bigcode-mha": ("gpt_bigcode", "bfloat16", gpt2(multi_query=False), {}),
    "gpt-bigcode-mqa": ("gpt_bigcode", "bfloat16", gpt2(multi_query=True), {}),
    "gpt-neox-serial": ("gpt_neox", "bfloat16", base(
        use_parallel_residual=False, rope_parameters=rope(partial_rotary_factor=1.0)),
        dict(keys=dict(rope_parameters=None, rotary_pct=1.0, rotary_emb_base=10000))),
    "gpt-neox-parallel": ("gpt_neox", "bfloat16", base(
        attention_bias=False, rope_parameters=rope(rope_theta=2000.0, partial_rotary_factor=0.5)),
        dict(keys=dict(rope_parameters=None, rotary_pct=0.5, rotary_emb_base=2000))),
    "gptj": ("gptj", "bfloat16", gpt2(rotary_dim=4), {}),
    "granite": ("granite", "bfloat16", base(
        embedding_multiplier=6.0, logits_scaling=0.5, residual_multiplier=0.4,
        attention_multiplier=0.2, attention_bias=True, mlp_bias=True), {}),
    "internlm": ("llama", "bfloat16", base(num_key_value_heads=4, attention_bias=True),
                 dict(rewrite="internlm")),
    "internlm2": ("llama", "bfloat16", base(), dict(rewrite="internlm2")),
    # The width of experts is a multiple of 4: torch multiplies them in groups that ask for it.
    "mixtral-window": ("mixtral", "bfloat16", base(
        intermediate_size=44, num_local_experts=4, num_experts_per_tok=2, sliding_window=8), {}),
    "mpt": ("mpt", "bfloat16", mpt(4, 32), {}),
    "mpt-6heads-options": ("mpt", "bfloat16", mpt(
        6, 36, clip_qkv=0.9, softmax_scale=0.3, alibi_bias_max=5), {}),
    "olmo2-mqa": ("olmo2", "bfloat16", base(num_key_value_heads=1, attention_bias=True), {}),
    "olmo2-gqa": ("olmo2", "bfloat16", base(), {}),
    "opt": ("opt", "bfloat16", opt(tie_word_embeddings=False), {}),
    "opt-350m": ("opt", "bfloat16", opt(do_layer_norm_before=False, word_embed_proj_dim=12),
                 dict(gain=2.0)),
    "opt-galactica": ("opt", "bfloat16", opt(
        enable_bias=False, layer_norm_elementwise_affine=False, activation_function="gelu",
        tie_word_embeddings=False), {}),
    "opt-no-final-norm": ("opt", "bfloat16", opt(
        _remove_final_layer_norm=True, tie_word_embeddings=False), {}),
    "phi": ("phi", "bfloat16", base(partial_rotary_factor=0.5, qk_layernorm=True), {}),
    "phi3": ("phi3", "bfloat16", base(sliding_window=9), {}),
    "phi3-longrope-long": ("phi3", "bfloat16", base(
        original_max_position_embeddings=32, rope_parameters=LONGROPE),
        dict(max_model_len=96)),
    "phi3-longrope-short": ("phi3", "bfloat16", base(
        original_max_position_embeddings=32, rope_parameters=LONGROPE),
        dict(max_model_len=32, short=True)),
    "phi3-partial": ("phi3", "bfloat16", base(
        hidden_size=64, num_attention_heads=4, original_max_position_embeddings=32,
        rope_parameters=dict(LONGROPE, partial_rotary_factor=0.5)), dict(
            max_model_len=96, keys=dict(rope_parameters=None, partial_rotary_factor=0.5,
                                        rope_theta=10000.0, rope_scaling=dict(
                type="longrope", short_factor=LONGROPE["short_factor"],
                long_factor=LONGROPE["long_factor"])))),
    "qwen": ("qwen2", "bfloat16", base(num_key_value_heads=4), dict(rewrite="qwen")),
    "qwen2-moe-layers": ("qwen2_moe", "bfloat16", base(
        num_hidden_layers=4, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=20,
        shared_expert_intermediate_size=28, decoder_sparse_step=2, mlp_only_layers=[3],
        use_sliding_window=True, sliding_window=8, max_window_layers=3), {}),
    "qwen2-windows": ("qwen2", "bfloat16", base(
        use_sliding_window=True, sliding_window=7, max_window_layers=1), {}),
    "qwen3": ("qwen3", "bfloat16", base(head_dim=16, attention_bias=True), {}),
    "qwen3-moe-renormalized": ("qwen3_moe", "bfloat16", base(
        num_experts=8, num_experts_per_tok=4, moe_intermediate_size=20, norm_topk_prob=True,
        head_dim=12, attention_bias=True, mlp_only_layers=[0]), {}),
    "santacoder": ("gpt_bigcode", "bfloat16", gpt2(multi_query=True, tie_word_embeddings=True),
                   dict(rewrite="santacoder", gain=2.0)),
    "stablelm-parallel": ("stablelm", "bfloat16", base(
        partial_rotary_factor=0.25, use_parallel_residual=True, qk_layernorm=True), {}),
    "stablelm-serial": ("stablelm", "bfloat16", base(
        partial_rotary_factor=0.5, use_qkv_bias=True, qk_layernorm=True), {}),
    "starcoder2": ("starcoder2", "bfloat16", base(sliding_window=9), {}),
    "starcoder2-no-bias": ("starcoder2", "bfloat16", base(use_bias=False), {}),
}
