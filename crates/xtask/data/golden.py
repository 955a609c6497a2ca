"""Golden outputs of the tiny models, computed from their definition alone.

    python3 golden.py FIXTURES          compare with what is checked in
    python3 golden.py FIXTURES --write  replace it

Each directory below FIXTURES has config.json (a Hugging Face configuration), tensors.json (names and
shapes) and golden.safetensors. Weights are a function of tensor name, salt and index. Everything is
computed in float64 with numpy, sharing no code with kvist, so that a mistake would have to be made twice.
"""

import json
import pathlib
import struct
import sys

import numpy as np

TOLERANCE = 1e-3
DTYPES = {"F32": np.dtype("<f4"), "I32": np.dtype("<i4")}
GOLDEN_RATIO = 0x9E3779B97F4A7C15
WORD = (1 << 64) - 1


def read_safetensors(path):
    raw = path.read_bytes()
    (header_len,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + header_len])
    metadata = header.pop("__metadata__", {})
    data = raw[8 + header_len :]
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return metadata, tensors


def write_safetensors(path, metadata, tensors):
    header, data = {"__metadata__": metadata}, b""
    for name, tensor in tensors.items():
        dtype = next(key for key, value in DTYPES.items() if value == tensor.dtype)
        offsets = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": offsets}
        data += tensor.tobytes()
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def splitmix64(words):
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def weight(name, shape, salt):
    """A tensor of the checkpoint: 24-bit numbers in [-1, 1), scaled by what the tensor is for."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 & WORD
    seed ^= salt * GOLDEN_RATIO & WORD
    count = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    words = splitmix64(np.uint64(seed) + count * np.uint64(GOLDEN_RATIO))
    unit = (words >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1.0
    if len(shape) == 1:
        values = (1.0 if name.endswith("norm.weight") else 0.0) + 0.2 * unit
    elif "embed_tokens" in name:
        values = 0.1 * unit
    else:
        values = unit * np.sqrt(3.0 / shape[1])
    return values.astype(np.float32).astype(np.float64).reshape(shape)


def inverse_frequencies(config):
    rope = config["rope_parameters"]
    half = config["head_dim"] // 2
    frequencies = rope["rope_theta"] ** (-np.arange(half) / half)
    if rope.get("rope_type", "default") == "default":
        return frequencies
    assert rope["rope_type"] == "llama3", rope
    # Wavelengths longer than the original context are slowed down, short ones kept, between the two
    # it is blended.
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * np.pi)
    keep = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequencies * (keep + (1.0 - keep) / rope["factor"])


def rms_norm(x, scale, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * scale


def rotate(x, frequencies):
    """x is [position, head, value]; a pair is a value of the first half and one of the second."""
    angles = np.arange(x.shape[0])[:, None, None] * frequencies
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class Decoder:
    def __init__(self, config, shapes, salt):
        self.config = config
        self.tensors = {name: weight(name, shape[1:], salt) for name, shape in shapes.items()}
        heads = config["num_attention_heads"]
        config.setdefault("head_dim", config["hidden_size"] // heads)
        self.frequencies = inverse_frequencies(config)

    def linear(self, name, x):
        out = x @ self.tensors[f"{name}.weight"].T
        bias = self.tensors.get(f"{name}.bias")
        return out if bias is None else out + bias

    def norm(self, name, x):
        return rms_norm(x, self.tensors[f"{name}.weight"], self.config["rms_norm_eps"])

    def attention(self, idx, x):
        name, config = f"model.layers.{idx}.self_attn", self.config
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        length, head_dim = x.shape[0], config["head_dim"]
        q = self.linear(f"{name}.q_proj", x).reshape(length, heads, head_dim)
        k = self.linear(f"{name}.k_proj", x).reshape(length, kv_heads, head_dim)
        v = self.linear(f"{name}.v_proj", x).reshape(length, kv_heads, head_dim)
        if config.get("no_rope_layers", [1] * (idx + 1))[idx]:
            q, k = rotate(q, self.frequencies), rotate(k, self.frequencies)
        k, v = (np.repeat(side, heads // kv_heads, axis=1) for side in (k, v))
        scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim)
        scores[:, np.triu(np.ones((length, length), bool), 1)] = -np.inf
        shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
        shares /= shares.sum(axis=-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", shares, v).reshape(length, heads * head_dim)
        return self.linear(f"{name}.o_proj", out)

    def mlp(self, idx, x):
        name = f"model.layers.{idx}.mlp"
        gate = self.linear(f"{name}.gate_proj", x)
        return self.linear(f"{name}.down_proj", gate / (1.0 + np.exp(-gate)) * self.linear(f"{name}.up_proj", x))

    def logits(self, tokens):
        table = self.tensors["model.embed_tokens.weight"]
        x = table[tokens]
        for idx in range(self.config["num_hidden_layers"]):
            name = f"model.layers.{idx}"
            x = x + self.attention(idx, self.norm(f"{name}.input_layernorm", x))
            x = x + self.mlp(idx, self.norm(f"{name}.post_attention_layernorm", x))
        return self.norm("model.norm", x) @ self.tensors.get("lm_head.weight", table).T

    def greedy(self, tokens, count):
        tokens = list(tokens)
        for _ in range(count):
            tokens.append(int(self.logits(tokens)[-1].argmax()))
        return tokens[-count:]


def main(root, action):
    is_good = True
    for path in sorted(pathlib.Path(root).glob("*/golden.safetensors")):
        metadata, golden = read_safetensors(path)
        config = json.loads((path.parent / "config.json").read_text())
        shapes = json.loads((path.parent / "tensors.json").read_text())
        model = Decoder(config, shapes, int(metadata["salt"]))
        logits = model.logits(golden["input_ids"])[golden["positions"]]
        greedy = model.greedy(golden["input_ids"], len(golden["greedy"]))
        difference = np.abs(logits - golden["logits"]).max()
        same = greedy == golden["greedy"].tolist()
        print(f"{path.parent.name:<12} logits differ by at most {difference:.1e}, greedy tokens equal: {same}")
        is_good &= bool(difference <= TOLERANCE) and same
        if action == "--write":
            golden["logits"] = logits.astype("<f4")
            golden["greedy"] = np.array(greedy, "<i4")
            metadata["oracle"] = f"numpy {np.__version__} float64"
            write_safetensors(path, metadata, golden)
    return 0 if is_good or action == "--write" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "--check"))
