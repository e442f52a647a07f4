"""Makes fuzz/seeds from the repository's own files: python3 fuzz/make_seeds.py target/debug/lowrank

Only the standard library is used. Folders become one file: a length of four bytes before each of
their files, in the order in which the target names them.
"""

import json
import pathlib
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
LOWRANK = sys.argv[1]


def put(target, name, data):
    folder = HERE / "seeds" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def framed(*files):
    data = [file if isinstance(file, bytes) else file.encode() for file in files]
    return b"".join(struct.pack("<I", len(file)) + file for file in data)


def safetensors(shapes):
    header, at = {}, 0
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    text = json.dumps(header).encode()
    values = b"".join(struct.pack("<f", (i % 17 - 8) / 8) for i in range(at // 4))
    return struct.pack("<Q", len(text)) + text + values


def llama_shapes(dim, hidden, vocab, kv):
    layer = "model.layers.0."
    linear = {"q": [dim, dim], "k": [kv, dim], "v": [kv, dim], "o": [dim, dim]}
    shapes = {f"{layer}self_attn.{name}_proj.weight": shape for name, shape in linear.items()}
    shapes |= {
        f"{layer}mlp.gate_proj.weight": [hidden, dim],
        f"{layer}mlp.up_proj.weight": [hidden, dim],
        f"{layer}mlp.down_proj.weight": [dim, hidden],
        f"{layer}input_layernorm.weight": [dim],
        f"{layer}post_attention_layernorm.weight": [dim],
        "model.norm.weight": [dim],
        "model.embed_tokens.weight": [vocab, dim],
    }
    return shapes


LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 6,
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "tie_word_embeddings": True,
    "bos_token_id": 4, "eos_token_id": 5,
}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
    "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
    "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "Ġ": 4, "<s>": 5}, "merges": ["a b"],
}


def tokenizer(**parts):
    added = {"id": 5, "content": "<s>", "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [added],
             "normalizer": None, "pre_tokenizer": BYTE_LEVEL, "post_processor": None,
             "decoder": BYTE_LEVEL, "model": BPE}
    return json.dumps(whole | parts, ensure_ascii=False)


TOKENIZERS = {
    "bpe": tokenizer(),
    "wordpiece": tokenizer(
        normalizer={"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                    "strip_accents": None, "lowercase": True},
        pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor={"type": "TemplateProcessing",
                        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                                   {"Sequence": {"id": "A", "type_id": 0}}],
                        "pair": [], "special_tokens": {
                            "[CLS]": {"id": "[CLS]", "ids": [1], "tokens": ["[CLS]"]}}},
        decoder={"type": "WordPiece", "prefix": "##", "cleanup": True},
        model={"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 100,
               "vocab": {"[UNK]": 0, "[CLS]": 1, "a": 2, "##b": 3}}),
    "unigram": tokenizer(
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}]},
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always",
                       "split": True},
        decoder={"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        model={"type": "Unigram", "unk_id": 0, "byte_fallback": False,
               "vocab": [["<unk>", 0.0], ["▁", -2.0], ["a", -3.0], ["▁ab", -1.5]]}),
}

CONFIGS = {
    "llama": {"model_type": "llama", "tokenizer": "bytes", "hidden_size": 16,
              "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "max_position_embeddings": 32, "tie_word_embeddings": True},
    "bert": {"model_type": "bert", "tokenizer": "bytes", "hidden_size": 16,
             "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
             "max_position_embeddings": 32, "type_vocab_size": 2, "hidden_act": "gelu"},
    "lstm": {"model_type": "lstm", "tokenizer": "bytes", "embedding_size": 8, "hidden_size": 8,
             "num_layers": 1},
    "mlp": {"model_type": "mlp", "input_size": 4, "hidden_sizes": [8], "labels": ["no", "yes"],
            "activation": "relu"},
}

TEMPLATES = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m['content'] | trim }}"
              "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "namespace": "{%- set ns = namespace(system='', n=0) %}{%- for m in messages %}"
                 "{%- if m.role == 'system' %}{%- set ns.system = m.content %}{%- endif %}"
                 "{%- set ns.n = ns.n + 1 %}{%- endfor %}{{ ns.system ~ ns.n }}",
    "macro": "{% macro f(x, n) %}{% if n %}{{ f([x], n - 1) }}{% else %}{{ x | tojson }}"
             "{% endif %}{% endmacro %}{{ f('a', 3) }}{{ '%s-%5d' | format('a', 3) }}",
    "methods": "{{ 'a,b'.split(',') | join(';') }}{{ messages[::-1][0].items() | list }}"
               "{{ '{:>5}'.format('x') }}{{ range(3) | map('string') | list }}",
    # What once took memory or time without bound.
    "separators": "{% set s = 'x' * 100000 %}{{ range(9) | list | tojson(separators=[s, ':']) }}",
    "indent": "{% set s = 'x' * 100000 %}{{ range(9) | list | tojson(indent=s) }}",
    "strftime": "{{ strftime_now('%c' * 1000) }}",
    "strip": "{% set s = 'a' * 1000 %}{{ s.strip('b' * 1000 ~ 'a') }}",
    "digits": "{{ ('٣' * 1000).isdigit() }}",
}


def main():
    for name, text in TOKENIZERS.items():
        put("tokenizer", name, text)
    for name, text in TEMPLATES.items():
        put("template", name, text)
    for name, config in CONFIGS.items():
        put("init", name, json.dumps(config))
        with tempfile.TemporaryDirectory() as folder:
            source, made = pathlib.Path(folder, "c.json"), pathlib.Path(folder, "m.lrk")
            source.write_text(json.dumps(config))
            subprocess.run([LOWRANK, "init", source, "--seed", "1", "-o", made], check=True)
            put("archive", name, made.read_bytes())
            if name == "llama":
                put("capi", name, made.read_bytes())
    for name, text in TOKENIZERS.items():
        weights = safetensors(llama_shapes(8, 8, 6, 4))
        put("safetensors", name, framed(json.dumps(LLAMA), weights, text, "{}", "{}"))
    put("adapter", "pirate", (ROOT / "assets/tiny-pirate.lrk").read_bytes())
    # The tensors of files that the importers read are what makes them long: heads are enough.
    for name in ["qwen2", "linear-rope"]:
        put("gguf", name, (ROOT / f"tests/golden/gguf/{name}.gguf").read_bytes())
    put("gguf_lora", "lora", (ROOT / "tests/golden/gguf/lora.gguf").read_bytes())
    peft = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"],
            "bias": "none", "task_type": "CAUSAL_LM"}
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    weights = safetensors({f"{name}A.weight": [2, 128], f"{name}B.weight": [128, 2]})
    put("peft", "lora", framed(json.dumps(peft), weights))
    put("data", "csv", "label,text\nyes,good\nno,\"bad, \"\"very\"\"\"\n")
    put("data", "features", "label,a,b\nyes,1.5,2\nno,-3,4e-2\n")
    put("data", "text", "One line.\n\nAnother paragraph\nof two lines.\n")
    put("data", "jsonl", '{"messages":[{"role":"user","content":"hi"},{"role":"assistant",'
                         '"content":"hello"}]}\n{"text":"plain"}\n{"prompt":"a","completion":"b"}\n'
                         '{"text":"x","label":"yes"}\n')


main()
