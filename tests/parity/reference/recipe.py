"""Deterministic synthetic checkpoints and inputs.

No weights are stored.  An inventory (inventories/*.json) names every tensor of an
official state dict with its shape, dtype and a value rule; `synthesise` turns it
into tensors which are bit-identical on every machine:

    value(name) = mean + std * n,   n = float32 standard normals drawn from
    numpy.random.Generator(numpy.random.Philox(crc32(name as utf-8)))

drawn as float64 is *not* used: `standard_normal(shape, dtype=float32)`, C order,
then one float32 multiply and one float32 add, then a cast to the stored dtype.

Inventory entry:
    "name": {"shape": [...], "dtype": "float32", "rule": [kind, ...args]}
    optional "alias_of": other name (the official module shares that parameter;
    the values are those of the other name)
    optional "seed": other name used instead of the own name when drawing n (used to
    correlate two tensors, e.g. to push the mean of a dot product to a sane value)
    optional "extra": true  (present in the published archive but not in the module
    which the repository builds; a loader must tolerate and ignore it)

Kinds:
    ["normal", mean, std]     see above
    ["absnormal", mean, std]  mean + std * |n|
    ["const", c]              filled with c
    ["arange"]                0..last dim-1 broadcast over the leading dims
    ["swin_rpi", window]      Swin relative position index for a window*window window
    ["values", [...]]         the listed numbers (row major), e.g. anchors
"""

import json
import re
import zlib

import numpy as np

try:
    import torch
except ImportError:  # the numpy part works alone
    torch = None

_NP = {
    "float32": np.float32,
    "float16": np.float16,
    "float64": np.float64,
    "int64": np.int64,
    "int32": np.int32,
    "bool": np.bool_,
}


def normals(name, shape):
    """float32 standard normals which depend on `name` and `shape` only."""
    g = np.random.Generator(np.random.Philox(zlib.crc32(name.encode("utf-8"))))
    return np.asarray(g.standard_normal(tuple(shape), dtype=np.float32), dtype=np.float32)


def swin_relative_position_index(w):
    """[w*w, w*w] int64: (dy + w - 1) * (2w - 1) + (dx + w - 1), d = query - key."""
    y, x = np.divmod(np.arange(w * w), w)
    return ((y[:, None] - y[None]) + w - 1) * (2 * w - 1) + ((x[:, None] - x[None]) + w - 1)


def tensor_value(name, entry):
    """numpy array for one inventory entry."""
    shape, dtype = tuple(entry["shape"]), _NP[entry["dtype"]]
    rule = entry["rule"]
    kind = rule[0]
    src = entry.get("alias_of") or entry.get("seed") or name
    if kind in ("normal", "absnormal"):
        n = normals(src, shape)
        if kind == "absnormal":
            n = np.abs(n)
        v = np.float32(rule[1]) + np.float32(rule[2]) * n
    elif kind == "const":
        v = np.full(shape, rule[1])
    elif kind == "arange":
        v = np.broadcast_to(np.arange(shape[-1]), shape)
    elif kind == "swin_rpi":
        v = swin_relative_position_index(rule[1])
    elif kind == "values":
        v = np.asarray(rule[1]).reshape(shape)
    else:
        raise ValueError(f"{name}: unknown rule {rule}")
    v = np.array(v, dtype=dtype, order="C")
    assert v.shape == shape, (name, v.shape, shape)
    return v


def load_inventory(path):
    with open(path) as f:
        return json.load(f)


def synthesise(inventory, prefix="", extras=True):
    """dict name -> torch.Tensor.  `inventory` is the loaded JSON (or its "tensors").

    prefix: put before every name *after* the values are drawn (e.g. "module.").
    extras: also produce the entries flagged "extra".
    """
    entries = inventory.get("tensors", inventory)
    out = {}
    for name, e in entries.items():
        if e.get("extra") and not extras:
            continue
        out[prefix + name] = torch.from_numpy(tensor_value(name, e))
    return out


# ----------------------------------------------------------------- value rules
# Only used when an inventory is *built*; inventories carry the result.

_SPECIAL = [
    # (regex on the name, rule).  First match wins.
    (r"(^|\.)num_batches_tracked$", ("const", 100)),
    (r"position_ids$", ("arange",)),
    (r"running_mean$", ("normal", 0.0, 0.1)),
    (r"running_var$", ("absnormal", 1.0, 0.1)),
    (r"logit_scale$", ("const", 4.6052)),
    (r"relative_position_bias_table$", ("normal", 0.0, 0.3)),
    # OpenAI / HF CLIP embeddings
    (r"(token_embedding|patch_position|position_embedding)\.weight$", ("normal", 0.0, 0.02)),
    (
        r"^visual\.positional_embedding$|^visual\.class_embedding$|attnpool\.positional_embedding$",
        ("normal", 0.0, 0.04),
    ),
    (r"^positional_embedding$", ("normal", 0.0, 0.02)),
    (r"vision_model\.embeddings\.class_embedding$", ("normal", 0.0, 0.04)),
    # BERT
    (r"(word|position|token_type)_embeddings\.weight$", ("normal", 0.0, 0.02)),
    # Grounding DINO: the last text norm's bias is the direction that SEEDS (below) refers to
    (
        r"(transformer\.encoder\.text_layers\.5\.norm2|model\.encoder\.layers\.5\.text_enhancer_layer\.layer_norm_after)\.bias$",
        ("normal", 0.0, 0.5),
    ),
    (r"(transformer|model)\.enc_output\.bias$", ("normal", 0.0, -0.02)),
    (r"(transformer\.enc_output_norm|model\.enc_output_norm)\.bias$", ("normal", 0.0, -0.02)),
    (r"(transformer\.decoder\.norm|model\.decoder\.layer_norm)\.bias$", ("normal", 0.0, -0.045)),
    (r"label_enc\.weight$", ("normal", 0.0, 1.0)),
    (r"sampling_offsets\.bias$", ("normal", 0.0, 1.5)),
    (r"(level_embed|tgt_embed\.weight|query_position_embeddings\.weight)$", ("normal", 0.0, 1.0)),
    (r"(gamma_v|vision_param)$", ("normal", 0.3, 0.1)),
    (r"(gamma_l|text_param)$", ("normal", 0.15, 0.05)),
    (
        r"(transformer\.enc_output_norm|transformer\.decoder\.norm|model\.enc_output_norm|model\.decoder\.layer_norm)\.weight$",
        ("normal", 0.2, 0.05),
    ),
    # GLIP head
    (r"head\.bias0$", ("const", -4.59511985)),
    (r"head\.log_scale$", ("const", 0.0)),
    (r"head\.bias_lang$", ("normal", 0.0, 0.02)),
    (r"head\.scales\.\d\.scale$", ("normal", 1.0, 0.1)),
    (r"head\.dot_product_projection_text\.weight$", ("normal", 0.0, 1.5)),
]


_SCALES = [  # factors on 1/sqrt(fan_in)
    (r"bbox_embed(\.\d+)?\.layers\.2\.weight$", 0.2),  # small box refinements
    (r"(layer|dyhead_tower)\.\d+\.attention\.output\.dense\.weight$", 0.4),  # BERT: keep tokens distinct
    (r"(layer|dyhead_tower)\.\d+\.output\.dense\.weight$", 0.7),
    (r"head\.bbox_pred\.weight$", 4.0),
    (r"head\.centerness\.weight$", 6.0),
]

_TEXT_BIAS = {
    "transformer": "transformer.encoder.text_layers.5.norm2.bias",
    "model": "model.encoder.layers.5.text_enhancer_layer.layer_norm_after.bias",
}


def default_seed(name):
    """Grounding DINO: biases that are drawn along minus the text bias, so that region-text
    logits have a negative mean and masked ("invalid") proposals rank last."""
    m = re.match(r"(transformer|model)\.(enc_output|enc_output_norm|decoder\.norm|decoder\.layer_norm)\.bias$", name)
    return _TEXT_BIAS[m.group(1)] if m else None


def default_rule(name, shape, dtype):
    """The rule used for a parameter that has no special treatment."""
    for pat, rule in _SPECIAL:
        if re.search(pat, name):
            return list(rule)
    if dtype not in ("float32", "float16"):
        raise ValueError(f"no rule for {name} {shape} {dtype}")
    if name.endswith("bias"):
        return ["normal", 0.0, 0.02]
    if len(shape) <= 1:  # norm weights and the like
        return ["normal", 1.0, 0.1]
    fan_in = int(np.prod(shape[1:]))
    std = float(fan_in) ** -0.5
    if re.search(r"^visual\.(conv[23]|layer\d).*weight$", name) and len(shape) == 4:
        std *= 2.0**0.5  # CLIP ResNet: ReLU network
    if re.search(r"(visual\.proj|text_projection)$", name) and len(shape) == 2:
        std = float(shape[0]) ** -0.5  # stored [in, out]
    for pat, k in _SCALES:
        if re.search(pat, name):
            std *= k
    return ["normal", 0.0, round(std, 8)]


# ---------------------------------------------------------------------- inputs


def smooth_image(name, height, width, cells=6):
    """uint8 [H, W, 3] smooth random colours: bilinear upsampling (float64, endpoint
    grid) of a (cells+1)^2 grid of uniform integers 0..255, plus a 16-level fine
    checker texture, rounded half to even."""
    g = np.random.Generator(np.random.Philox(zlib.crc32(name.encode("utf-8"))))
    grid = g.integers(0, 256, size=(cells + 1, cells + 1, 3)).astype(np.float64)
    fine = g.integers(-24, 25, size=(height // 8 + 1, width // 8 + 1, 3)).astype(np.float64)

    def axis(n):
        p = np.arange(n) * (cells / max(n - 1, 1))
        i = np.minimum(p.astype(np.int64), cells - 1)
        return i, (p - i)

    yi, yf = axis(height)
    xi, xf = axis(width)
    yf, xf = yf[:, None, None], xf[None, :, None]
    a = grid[yi][:, xi]
    b = grid[yi][:, xi + 1]
    c = grid[yi + 1][:, xi]
    d = grid[yi + 1][:, xi + 1]
    v = (a * (1 - xf) + b * xf) * (1 - yf) + (c * (1 - xf) + d * xf) * yf
    v = v + fine[np.arange(height) // 8][:, np.arange(width) // 8]
    return np.clip(np.rint(v), 0, 255).astype(np.uint8)


def chw_normalised(img, mean, std, scale=255.0, bgr=False):
    """uint8 [H,W,3] -> float32 [3,H,W]: (x/scale - mean)/std in float32, optional RGB->BGR first."""
    x = img[..., ::-1] if bgr else img
    x = np.ascontiguousarray(x.transpose(2, 0, 1)).astype(np.float32)
    if scale != 1.0:
        x = x / np.float32(scale)
    m = np.asarray(mean, np.float32)[:, None, None]
    s = np.asarray(std, np.float32)[:, None, None]
    return (x - m) / s


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GLIP_MEAN, GLIP_STD = (103.530, 116.280, 123.675), (57.375, 57.120, 58.395)  # BGR, 0..255
