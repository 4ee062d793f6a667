"""Matrices whose answer is known, and checkpoints of a few kilobytes, for tests and notebooks.

Every maker takes a seed and gives the same result for it on one machine; none touches torch's global
generator. Matrices come in float64, orientation rows = outputs. Nothing here measures anything.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from spectra.errors import UsageError
from spectra.layout import layout_of
from spectra.updates import Dense, Factors, LowRank, Storage, WeightPair

Container = Literal["safetensors", "sharded", "bin"]
LLAMA_CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}
_FEWEST = 32


def orthogonal(m: int, k: int, *, seed: int) -> torch.Tensor:
    """Draw k orthonormal columns in R^m, uniformly (Haar). [m, k], float64, k <= m."""
    generator = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(m, k, generator=generator, dtype=torch.float64))
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0).double()
    return torch.mul(Q, signs)


def with_spectrum(values: Sequence[float] | torch.Tensor, m: int, n: int, *, seed: int) -> torch.Tensor:
    """Return an [m, n] matrix with the given singular values, rotated by random orthogonals.

    values : at most min(m, n) of them, in any order, non-negative; the rest are zero.

    >>> torch.linalg.svdvals(with_spectrum([3, 2, 1], 5, 4, seed=0)).round(decimals=6).tolist()
    [3.0, 2.0, 1.0, 0.0]
    """
    S = torch.as_tensor(values, dtype=torch.float64)
    return (orthogonal(m, len(S), seed=2 * seed) * S) @ orthogonal(n, len(S), seed=2 * seed + 1).T


def decaying(m: int, n: int, *, seed: int, exponent: float = 0.7) -> torch.Tensor:
    """Return an [m, n] matrix like a trained weight: singular values `i^-exponent`, i = 1 .. min(m, n)."""
    return with_spectrum(torch.arange(1, min(m, n) + 1, dtype=torch.float64) ** -exponent, m, n, seed=seed)


def tied(m: int, n: int, size: int, *, seed: int) -> torch.Tensor:
    """Return an [m, n] matrix whose `size` leading singular values are all 1 and the rest below 1/2.

    Its leading vectors are an arbitrary basis of one space: any noise picks another one, which the
    cosine of single vectors takes for intruders.
    """
    rest = torch.linspace(0.5, 0.1, min(m, n) - size, dtype=torch.float64)
    return with_spectrum(torch.cat([torch.ones(size, dtype=torch.float64), rest]), m, n, seed=seed)


def noise(m: int, n: int, *, level: float, seed: int) -> torch.Tensor:
    """Return an [m, n] matrix of normal entries, scaled to the spectral norm `level`."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(m, n, generator=generator, dtype=torch.float64)
    scaled: torch.Tensor = drawn * (level / torch.linalg.matrix_norm(drawn, 2))
    return scaled


def plant_intruders(base: torch.Tensor, count: int = 1, *, strength: float = 1.5, seed: int) -> LowRank:
    """Return an update that plants `count` new directions, and changes nothing else near the top.

    `dW = sum_c theta_c x_c y_c^T`; x_c and y_c are spread evenly over the smaller half of the base's
    singular vectors (columns of a cosine transform), so that no single base vector resembles them:
    with the base's small values far below theta, their similarity is at most `sqrt(2 / (p / 2))` and a
    little, on either side. The larger half of the base's singular vectors stays exactly as it is.

    Parameters
    ----------
    strength : theta of the weakest plant over the base's largest singular value; each other one is 5 %
        of it stronger than the next. Above 1 they lead; between two leading base values a single plant
        stands between them.

    Raises
    ------
    UsageError
        The base has fewer than 32 singular values, or count is more than a twelfth of them.
    """
    U, S, Vh = torch.linalg.svd(base.double(), full_matrices=False)
    p = len(S)
    if p < max(_FEWEST, 12 * count):
        raise UsageError(f"{count} plants need a base of at least {max(_FEWEST, 12 * count)} singular values, not {p}.")
    tail = slice(p // 2, p)
    theta = strength * S[0] * (1 + 0.05 * torch.arange(count - 1, -1, -1, dtype=torch.float64))
    X = U[:, tail] @ _even(p - p // 2, count, seed=2 * seed)
    Y = Vh[tail].T @ _even(p - p // 2, count, seed=2 * seed + 1)
    return LowRank(X * theta, Y.T)


def _even(size: int, count: int, *, seed: int) -> torch.Tensor:
    """Orthonormal columns whose entries are at most sqrt(2 / size), in random order and with random signs."""
    generator = torch.Generator().manual_seed(seed)
    row, column = torch.arange(size, dtype=torch.float64) + 0.5, torch.arange(1, count + 1, dtype=torch.float64)
    wave = math.sqrt(2 / size) * torch.cos(math.pi / size * row[:, None] * column)
    signs = torch.randint(0, 2, (size, 1), generator=generator) * 2.0 - 1
    return (signs * wave)[torch.randperm(size, generator=generator)]


def rotate_top(base: torch.Tensor, *, span: int = 16, seed: int) -> LowRank:
    """Return an update that rotates the base's `span` leading directions among themselves.

    `W` has the singular values of the base; its leading vectors lie in the base's top space and mix
    all of it, so that some fall below a cosine of 0.5 without a single new direction.
    """
    U, S, Vh = torch.linalg.svd(base.double(), full_matrices=False)
    top = torch.diag(S[:span])
    core = orthogonal(span, span, seed=2 * seed) @ top @ orthogonal(span, span, seed=2 * seed + 1).T - top
    return LowRank(U[:, :span] @ core, Vh[:span])


def rounded(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor after a round trip through `dtype`, as a file in that dtype gives it back."""
    return tensor.to(dtype).to(tensor.dtype)


def weight_pair(
    base: torch.Tensor,
    update: torch.Tensor | LowRank,
    *,
    key: str = "layers.0.weight",
    dtype: str = "float32",
    allotted: int | None = None,
) -> WeightPair:
    """Wrap a base and an update as the loaders would: float32, stored as `dtype` on both sides."""
    m, n = base.shape
    found = LowRank(update.B.float(), update.A.float()) if isinstance(update, LowRank) else Dense(update.float())
    size = Storage(dtype, m * n, m * n * getattr(torch, dtype).itemsize)
    return WeightPair(key, base.float(), found, layout_of((m, n)), size, size, allotted=allotted)


def llama(*, seed: int, blocks: int = 2, width: int = 32, vocabulary: int = 48) -> dict[str, torch.Tensor]:
    """Return the state dict of a Llama small enough to read: float32, names and shapes as on the Hub."""
    inner = 2 * width
    shapes = {f"self_attn.{name}_proj": (width, width) for name in "qkvo"}
    shapes |= {"mlp.gate_proj": (inner, width), "mlp.up_proj": (inner, width), "mlp.down_proj": (width, inner)}
    matrices = {"model.embed_tokens.weight": (vocabulary, width)}
    for block in range(blocks):
        matrices |= {f"model.layers.{block}.{name}.weight": shape for name, shape in shapes.items()}
    matrices["lm_head.weight"] = (vocabulary, width)
    tensors = {key: decaying(*shape, seed=97 * seed + at).float() for at, (key, shape) in enumerate(matrices.items())}
    for block in range(blocks):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{block}.{norm}.weight"] = torch.ones(width)
    return tensors | {"model.norm.weight": torch.ones(width)}


def lora(
    tensors: Mapping[str, torch.Tensor],
    targets: Sequence[str] = ("q_proj", "v_proj"),
    *,
    rank: int = 4,
    strength: float = 0.5,
    seed: int,
) -> dict[str, Factors]:
    """Return random factors (B, A), in the weight's dtype, for every module whose name ends in one of `targets`.

    strength : `||B A||_F / ||W0||_F`, before the adapter's own scaling (which is 1 for alpha = r).
    """
    generator = torch.Generator().manual_seed(seed)
    factors = {}
    for key, base in tensors.items():
        module = key.removesuffix(".weight")
        if module.endswith(tuple(targets)):
            m, n = base.shape
            B = torch.randn(m, rank, generator=generator, dtype=base.dtype)
            A = torch.randn(rank, n, generator=generator, dtype=base.dtype)
            factors[module] = B * (strength * torch.linalg.norm(base) / torch.linalg.norm(B @ A)), A
    return factors


def save_checkpoint(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    container: Container = "safetensors",
    config: Mapping[str, Any] = LLAMA_CONFIG,
    shards: int = 2,
) -> Path:
    """Write a checkpoint folder as transformers does, with its config.json; return the folder.

    container : "safetensors" (one file), "sharded" (safetensors and an index), "bin" (a torch pickle).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    whole = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if container == "bin":
        torch.save(whole, folder / "pytorch_model.bin")
    elif container == "safetensors":
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        _save_shards(folder, whole, shards)
    return folder


def _save_shards(folder: Path, tensors: Mapping[str, torch.Tensor], shards: int) -> None:
    homes = {key: f"model-{at % shards + 1:05}-of-{shards:05}.safetensors" for at, key in enumerate(tensors)}
    for name in dict.fromkeys(homes.values()):
        part = {key: tensor for key, tensor in tensors.items() if homes[key] == name}
        save_file(part, folder / name, metadata={"format": "pt"})
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": homes}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save_lora(folder: Path, factors: Mapping[str, Factors], *, alpha: float, **config: Any) -> Path:
    """Write an adapter folder as PEFT's save_pretrained does, from factors (B, A) by module name.

    `dW = (alpha / r) B A`, r the rank of the factors. config : more of adapter_config.json, such as
    `use_rslora=True` or `base_model_name_or_path`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for module, (B, A) in factors.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = A.contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = B.contiguous()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    document = {
        "peft_type": "LORA",
        "r": max(A.shape[0] for _, A in factors.values()),
        "lora_alpha": alpha,
        "target_modules": sorted({module.rpartition(".")[2] for module in factors}),
        "base_model_name_or_path": "spectra/pico",
        "bias": "none",
        "task_type": "CAUSAL_LM",
        **config,
    }
    (folder / "adapter_config.json").write_text(json.dumps(document))
    return folder
