# SPDX-License-Identifier: Apache-2.0
"""Families that transformers does not carry: the same model under their published names and
layouts, so that its golden is theirs. Each function takes (config, tensors) and returns both."""
import torch


def take(tensors, i, names):
    """Removes model.layers.i.NAME of each name and returns them."""
    return [tensors.pop(f"model.layers.{i}.{n}") for n in names]


def rename(tensors, pairs):
    out = {}
    for name, t in tensors.items():
        for old, new in pairs:
            name = name.replace(old, new)
        out[name] = t
    return out


def family(config, model_type, architecture):
    config["model_type"], config["architectures"] = model_type, [architecture]
    config["torch_dtype"] = config.pop("dtype")
    config.pop("layer_types", None)
    return config


def heads_together(parts, n_kv, dim):
    """Rows of q, k, v, group by group: the query heads of a KV head, its key, its value."""
    q, k, v = (p.reshape(n_kv, -1, dim, *p.shape[1:]) for p in parts)
    return torch.cat([q, k, v], 1).reshape(-1, *parts[0].shape[1:])


QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]


def fuse(tensors, i, suffix, combine=torch.cat):
    return combine(take(tensors, i, [n + suffix for n in QKV]))


def baichuan(config, tensors):
    for i in range(config["num_hidden_layers"]):
        tensors[f"model.layers.{i}.self_attn.W_pack.weight"] = fuse(tensors, i, ".weight")
    config = family(config, "baichuan", "BaichuanForCausalLM")
    # The size with ALiBi has no max_position_embeddings.
    config["model_max_length"] = config["max_position_embeddings"]
    if config["num_attention_heads"] == 6:
        del config["max_position_embeddings"]
    for key in ("rope_parameters", "num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"):
        config.pop(key, None)
    return config, tensors


def baichuan2(config, tensors):
    config, tensors = baichuan(config, tensors)
    config["z_loss_weight"] = 0
    return config, tensors


def deepseek(config, tensors):
    config = family(config, "deepseek", "DeepseekForCausalLM")
    config.update(n_routed_experts=None, first_k_dense_replace=0, moe_layer_freq=1,
                  rope_theta=config.pop("rope_parameters")["rope_theta"], rope_scaling=None)
    return config, tensors


def internlm(config, tensors):
    config = family(config, "internlm", "InternLMForCausalLM")
    config["bias"] = config.pop("attention_bias")
    config["rotary"] = dict(base=int(config.pop("rope_parameters")["rope_theta"]), type="dynamic")
    for key in ("num_key_value_heads", "head_dim", "mlp_bias"):
        config.pop(key, None)
    return config, tensors


def internlm2(config, tensors):
    n_kv, heads = config["num_key_value_heads"], config["num_attention_heads"]
    dim = config["hidden_size"] // heads
    for i in range(config["num_hidden_layers"]):
        tensors[f"model.layers.{i}.attention.wqkv.weight"] = fuse(
            tensors, i, ".weight", lambda parts: heads_together(parts, n_kv, dim))
    tensors = rename(tensors, [
        ("embed_tokens", "tok_embeddings"), ("lm_head", "output"), ("self_attn.o_proj",
        "attention.wo"), ("mlp.gate_proj", "feed_forward.w1"), ("mlp.up_proj", "feed_forward.w3"),
        ("mlp.down_proj", "feed_forward.w2"), ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm")])
    config = family(config, "internlm2", "InternLM2ForCausalLM")
    config["bias"] = config.pop("attention_bias")
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["rope_scaling"] = dict(type="dynamic", factor=2.0)
    return config, tensors


def qwen(config, tensors):
    for i in range(config["num_hidden_layers"]):
        tensors[f"model.layers.{i}.attn.c_attn.weight"] = fuse(tensors, i, ".weight")
        tensors[f"model.layers.{i}.attn.c_attn.bias"] = fuse(tensors, i, ".bias")
    tensors = rename(tensors, [
        ("model.layers.", "transformer.h."), ("model.embed_tokens", "transformer.wte"),
        ("model.norm", "transformer.ln_f"), ("self_attn.o_proj", "attn.c_proj"),
        ("mlp.gate_proj", "mlp.w2"), ("mlp.up_proj", "mlp.w1"), ("mlp.down_proj", "mlp.c_proj"),
        ("input_layernorm", "ln_1"), ("post_attention_layernorm", "ln_2")])
    own = dict(
        architectures=["QWenLMHeadModel"], model_type="qwen", bf16=True, emb_dropout_prob=0.0,
        hidden_size=config["hidden_size"], intermediate_size=2 * config["intermediate_size"],
        kv_channels=config["hidden_size"] // config["num_attention_heads"],
        layer_norm_epsilon=config["rms_norm_eps"], max_position_embeddings=512, no_bias=True,
        num_attention_heads=config["num_attention_heads"],
        num_hidden_layers=config["num_hidden_layers"],
        rotary_emb_base=int(config["rope_parameters"]["rope_theta"]), rotary_pct=1.0,
        scale_attn_weights=True, seq_length=config["max_position_embeddings"],
        tie_word_embeddings=False, torch_dtype=config["dtype"], use_dynamic_ntk=True,
        use_logn_attn=True, vocab_size=config["vocab_size"], eos_token_id=2)
    return own, tensors


def chatglm(config, tensors):
    n_kv, heads = config["num_key_value_heads"], config["num_attention_heads"]
    dim, together = config["head_dim"], n_kv == heads
    combine = (lambda parts: heads_together(parts, n_kv, dim)) if together else torch.cat
    for i in range(config["num_hidden_layers"]):
        for end in (".weight", ".bias"):
            tensors[f"model.layers.{i}.self_attention.query_key_value{end}"] = fuse(
                tensors, i, end, combine)
    tensors = rename(tensors, [
        ("model.layers.", "transformer.encoder.layers."),
        ("model.embed_tokens", "transformer.embedding.word_embeddings"),
        ("model.norm", "transformer.encoder.final_layernorm"),
        ("lm_head", "transformer.output_layer"), ("self_attn.o_proj", "self_attention.dense"),
        ("mlp.gate_up_proj", "mlp.dense_h_to_4h"), ("mlp.down_proj", "mlp.dense_4h_to_h")])
    inv_freq = 1.0 / 10000.0 ** (torch.arange(0, dim // 2, 2).float() / (dim // 2))
    tensors["transformer.rotary_pos_emb.inv_freq"] = inv_freq
    own = dict(
        architectures=["ChatGLMModel"], model_type="chatglm", add_bias_linear=False,
        add_qkv_bias=True, apply_query_key_layer_scaling=True,
        apply_residual_connection_post_layernorm=False, attention_softmax_in_fp32=True,
        bias_dropout_fusion=True, ffn_hidden_size=config["intermediate_size"],
        fp32_residual_connection=False, hidden_size=config["hidden_size"], kv_channels=dim,
        layernorm_epsilon=config["rms_norm_eps"], multi_query_attention=not together,
        num_attention_heads=heads, num_layers=config["num_hidden_layers"], original_rope=True,
        padded_vocab_size=config["vocab_size"], post_layer_norm=True, rmsnorm=True,
        rope_ratio=config["rope_parameters"]["rope_theta"] / 10000.0,
        seq_length=config["max_position_embeddings"], tie_word_embeddings=False,
        torch_dtype=config["dtype"], eos_token_id=2, quantization_bit=0, pre_seq_len=None,
        prefix_projection=False)
    if not together:
        own["multi_query_group_num"] = n_kv
    return own, tensors


def santacoder(config, tensors):
    width = config["n_embd"]
    out = {}
    for name, t in tensors.items():
        if ".attn.c_attn." in name:
            turn = (lambda x: x.T.contiguous()) if t.ndim == 2 else (lambda x: x.contiguous())
            out[name.replace("c_attn", "q_attn")] = turn(t[:width])
            out[name.replace("c_attn", "kv_attn")] = turn(t[width:])
        elif t.ndim == 2 and ".h." in name:
            out[name] = t.T.contiguous()
        else:
            out[name] = t
    for key in ("multi_query", "num_key_value_heads"):
        config.pop(key, None)
    config["attention_head_type"] = "multiquery"
    config["activation_function"] = "gelu_fast"
    return family(config, "gpt2", "GPT2LMHeadCustomModel"), out


def base_names(config, tensors):
    """As the first checkpoints were saved: without the model's prefix, with the causal masks."""
    out = {n.removeprefix("transformer."): t for n, t in tensors.items()}
    for i in range(config["n_layer"]):
        out[f"h.{i}.attn.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.uint8).tril()
    return config, out
