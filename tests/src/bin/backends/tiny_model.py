"""Writes a model file that llama.cpp runs: a Llama of two layers with random weights. It answers nonsense, but for real, and at
once. Only whole words have weights towards the output, so the likeliest token is always one of them and never the end of the
text: at temperature 0 an answer is readable and exactly as long as it was asked to be.

usage: tiny_model.py FILE.gguf SEED
"""

import sys

import gguf
import numpy

WIDTH, HEADS, LAYERS, INNER = 64, 4, 2, 128
CONTEXT = 4096
WORDS = "a backend slept until somebody asked it what day this was and then told them so without hurry".split()

CONTROL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
TOKENS = CONTROL + BYTES + ["\u2581" + word for word in WORDS]
FIRST_WORD = len(CONTROL) + len(BYTES)

FILE, SEED = sys.argv[1:]
random = numpy.random.default_rng(seed=int(SEED))


def weights(*shape):
    return random.normal(scale=0.1, size=shape).astype(numpy.float32)


def ones():
    return numpy.ones(WIDTH, dtype=numpy.float32)


def describe(file):
    file.add_name("tiny random Llama")
    file.add_context_length(CONTEXT)
    file.add_embedding_length(WIDTH)
    file.add_block_count(LAYERS)
    file.add_feed_forward_length(INNER)
    file.add_head_count(HEADS)
    file.add_head_count_kv(HEADS)
    file.add_rope_dimension_count(WIDTH // HEADS)
    file.add_layer_norm_rms_eps(1e-5)
    file.add_file_type(gguf.LlamaFileType.ALL_F32)


def describe_tokens(file):
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2
    kinds += [gguf.TokenType.BYTE] * len(BYTES) + [gguf.TokenType.NORMAL] * len(WORDS)
    file.add_vocab_size(len(TOKENS))
    file.add_tokenizer_model("llama")
    file.add_token_list(TOKENS)
    file.add_token_types(kinds)
    # The tokenizer takes the word with the highest score first.
    file.add_token_scores([0.0] * FIRST_WORD + [-float(rank) for rank in range(len(WORDS))])
    file.add_unk_token_id(0)
    file.add_bos_token_id(1)
    file.add_eos_token_id(2)
    file.add_chat_template("{% for message in messages %}{{ message['content'] }}\n{% endfor %}")


def add_layers(file):
    output = weights(len(TOKENS), WIDTH)
    output[:FIRST_WORD] = 0.0
    file.add_tensor("token_embd.weight", weights(len(TOKENS), WIDTH))
    file.add_tensor("output_norm.weight", ones())
    file.add_tensor("output.weight", output)
    for layer in range(LAYERS):
        for name in ("attn_norm", "ffn_norm"):
            file.add_tensor(f"blk.{layer}.{name}.weight", ones())
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            file.add_tensor(f"blk.{layer}.{name}.weight", weights(WIDTH, WIDTH))
        for name in ("ffn_gate", "ffn_up"):
            file.add_tensor(f"blk.{layer}.{name}.weight", weights(INNER, WIDTH))
        file.add_tensor(f"blk.{layer}.ffn_down.weight", weights(WIDTH, INNER))


def main(path):
    file = gguf.GGUFWriter(path, "llama")
    describe(file)
    describe_tokens(file)
    add_layers(file)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()


main(FILE)
