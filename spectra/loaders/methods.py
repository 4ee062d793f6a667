"""Which method a file holds, read off its tensor names alone. Torch-free.

One row a way of writing updates to disk: a name, a pattern over tensor names, what becomes of it. A
pattern that names the two factors of a product (`down`, `up`) gives the rank too. The rows are tried in
order and the first that matches a name has it, so a special case stands above the general one.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import cached_property

from spectra.loaders.header import TensorInfo

_MAX_KINDS, _MAX_NAME = 10_000, 2000
_NUMBER = re.compile(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])")


class Fate(Enum):
    """What an analysis of weight updates can make of a method."""

    READ = "read by this version, given its configuration"
    MERGE = "has a weight update, which this version does not rebuild"
    NONE = "has no weight update"


@dataclass(frozen=True)
class Method:
    """One way of writing an update.

    pattern : a regular expression over tensor names; its groups `module`, `down`, `up` and `adapter`
    name the parts of a low-rank product. axis : the axis of `down` that counts the rank; None takes the
    smaller one. product : whether dW is s times the product of the two. kin : rows that may share a file.
    """

    name: str
    pattern: str
    fate: Fate = Fate.MERGE
    kin: str = ""
    axis: int | None = 0
    product: bool = True
    peft: tuple[str, ...] = ()

    @cached_property
    def matcher(self) -> re.Pattern[str]:
        return re.compile(self.pattern)


@dataclass(slots=True)
class Factors:
    """The two tensors of one module's product, by name; one may be missing."""

    down: str | None = None
    up: str | None = None


@dataclass(frozen=True, slots=True)
class Contents:
    """What the names of a file say: its methods in the order of the table, its modules, the rest."""

    methods: tuple[Method, ...]
    modules: Mapping[str, Factors]
    adapters: frozenset[str | None]
    rest: tuple[str, ...]


def _peft(peft_type: str, name: str, mark: str, fate: Fate = Fate.MERGE) -> Method:
    return Method(f"{name} (PEFT)", rf"(?:^|\.){mark}", fate, "peft", peft=tuple(peft_type.split()))


PLAIN = r"^(?P<module>.+?)\."
KOHYA = r"^(?P<module>(?:lora|lycoris|oft)_[^.]+)\."
_IN_PEFT = r"^(?P<module>base_model\..+)\."
DORA = Method("DoRA (PEFT)", r"\.lora_magnitude_vector(?:\.[^.]+)*$", Fate.READ, "peft", peft=("LORA",))
LORA = Method(
    "LoRA (PEFT)",
    PLAIN + r"(?:(?P<down>lora_A|lora_embedding_A)|(?P<up>lora_B|lora_embedding_B))"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.weight)?$",
    Fate.READ,
    "peft",
    peft=("LORA",),
)
ADAPTER_HUB = (
    Method(
        "LoRA family (AdapterHub)",
        PLAIN + r"(?:loras|shared_parameters)\.[^.]+\.(?:(?P<down>lora_A)|(?P<up>lora_B)|.+)$",
        Fate.READ,
        kin="hub",
        product=False,  # its (IA)3 and grouped variants store other factors under the same names
    ),
    Method(
        "bottleneck adapter (AdapterHub)",
        PLAIN + r"adapters\.[^.]+\.(?:(?P<down>adapter_down\.(?:0|#)\.weight)|(?P<up>adapter_up\.weight)|.+)$",
        Fate.NONE,
        "hub",
        product=False,
    ),
    Method("bottleneck adapter (AdapterHub)", r"\binvertible_adapters\.", Fate.NONE, "hub"),
    Method("prefix tuning (AdapterHub)", r"\bprefix_tunings?\.", Fate.NONE, "hub"),
    Method("ReFT (AdapterHub)", r"\.refts\.", Fate.NONE, "hub"),
)
PEFT = (
    Method("LoRA-XS", r"lora_latent_mapping(?:\.[^.]+)?(?:\.weight)?$", Fate.READ, "peft", peft=("LORA",)),
    Method(
        "AdaLoRA (PEFT)",
        _IN_PEFT + r"(?:(?P<down>lora_A)|(?P<up>lora_B)|lora_E)$",
        Fate.READ,
        "peft",
        product=False,
        peft=("ADALORA",),
    ),
    Method(
        "LoHa (PEFT)",
        _IN_PEFT + r"hada_(?:(?P<down>w1_b)|(?P<up>w1_a)|\w+)$",
        Fate.READ,
        "peft",
        product=False,
        peft=("LOHA",),
    ),
    Method(
        "LoKr (PEFT)",
        _IN_PEFT + r"lokr_(?:(?P<down>w[12]_b)|(?P<up>w[12]_a)|\w+)$",
        Fate.READ,
        "peft",
        product=False,
        peft=("LOKR",),
    ),
    _peft("IA3", "IA3", r"ia3_l$", Fate.READ),
    _peft("OFT", "OFT", r"oft_(?:R|r|embedding_R)(?:\.weight)?$", Fate.READ),
    _peft("BOFT", "BOFT", r"boft_[Rs]$", Fate.READ),
    _peft("HRA", "HRA", r"hra_u$", Fate.READ),
    _peft("ROAD", "RoAd", r"road_(?:theta|alpha)$", Fate.READ),
    _peft("VERA", "VeRA", r"vera_(?:lambda_[bd]|[AB])$", Fate.READ),
    _peft("PVERA", "PVeRA", r"pvera_", Fate.READ),
    _peft("FOURIERFT", "FourierFT", r"fourierft_spectrum$", Fate.READ),
    _peft("WAVEFT", "WaveFT", r"waveft_spectrum$", Fate.READ),
    _peft("VBLORA", "VB-LoRA", r"vblora_", Fate.READ),
    _peft("RANDLORA", "RandLoRA", r"randlora_", Fate.READ),
    _peft("C3A", "C3A", r"c3a_kernel$", Fate.READ),
    _peft("SHIRA", "SHiRA", r"shira_(?:weight|indices)$", Fate.READ),
    _peft("SUPERTUNING", "SuperTuning", r"supertuning_", Fate.READ),
    _peft("MISS", "MiSS", r"miss_block$", Fate.READ),
    _peft("BONE", "Bone", r"bone_block$", Fate.READ),
    _peft("GLORA", "GLoRA", r"glora_", Fate.READ),
    _peft("GRALORA", "GraLoRA", r"gralora_", Fate.READ),
    _peft("DELORA", "DeLoRA", r"delora_", Fate.READ),
    _peft("HIRA", "HiRA", r"hira_[AB]", Fate.READ),
    _peft("PSOFT", "PSOFT", r"psoft_R\.", Fate.READ),
    _peft("OSF", "OSF", r"osf_svd_params\.", Fate.READ),
    _peft("TINYLORA", "TinyLoRA", r"tinylora_", Fate.READ),
    _peft("UNILORA", "UniLoRA", r"unilora_theta_d$", Fate.READ),
    _peft("ADAMSS", "AdaMSS", r"adamss_", Fate.READ),
    _peft("FROD", "FRoD", r"frod_", Fate.READ),
    _peft("DEFT", "DEFT", r"deft_[PR]$", Fate.READ),
    _peft("PEANUT", "PEANuT", r"peanut_", Fate.READ),
    _peft("FINEGATES", "FineGates", r"finegates_(?:rows|columns)$", Fate.READ),
    _peft("BEFT", "BEFT", r"beft_bias$", Fate.NONE),
    _peft("LN_TUNING", "LayerNorm tuning", r"ln_tuning_layers\.", Fate.NONE),
    _peft("XLORA", "X-LoRA", r"(?:internal_)?xlora_classifier\.", Fate.NONE),
    _peft("LILY", "Lily", r"lily_", Fate.NONE),
    _peft("POLY", "Poly", r"poly_(?:lora_|router)", Fate.READ),
    _peft("ADAPTION_PROMPT", "LLaMA-Adapter prompts", r"adaption_(?:prompt|gate)$", Fate.NONE),
    _peft(
        "PROMPT_TUNING P_TUNING PREFIX_TUNING MULTITASK_PROMPT_TUNING CPT CARTRIDGE",
        "soft prompt or prefix",
        r"(?:prompt_embeddings|prefix_task_(?:cols|rows))$",
        Fate.NONE,
    ),
)
LYCORIS = (
    Method("LoHa (LyCORIS)", PLAIN + r"hada_(?:(?P<down>w1_b)|(?P<up>w1_a)|\w+)$", Fate.READ, "kohya", product=False),
    Method(
        "LoKr (LyCORIS)",
        PLAIN + r"lokr_(?:(?P<down>w[12]_b)|(?P<up>w[12]_a)|\w+)$",
        Fate.READ,
        "kohya",
        product=False,
    ),
    Method("OFT or BOFT (LyCORIS, kohya)", r"\.oft_blocks$|\.oft_diag$", Fate.READ, "kohya"),
    Method("GLoRA (LyCORIS)", KOHYA + r"(?:[ab][12]|bm)\.weight$", Fate.READ, "kohya"),
    Method("IA3 (LyCORIS)", KOHYA + r"(?:on_input|weight)$", Fate.READ, "kohya"),
    Method("T-LoRA (LyCORIS)", KOHYA + r"(?:p|q|lambda)_layer(?:\.weight)?$", Fate.READ, "kohya"),
    Method("DoRA (kohya, LyCORIS)", r"\.dora_scale$", Fate.READ, "kohya"),
    Method(
        "LoRA (kohya, LyCORIS)",
        PLAIN + r"(?:(?P<down>lora_down)|(?P<up>lora_up)|lora_mid)\.weight$",
        Fate.READ,
        "kohya",
    ),
    Method("full differences (LyCORIS)", PLAIN + r"(?:diff|diff_b|w_norm|b_norm)$", Fate.READ, "kohya"),
)
OTHERS = (
    Method(
        "LoRA (llama.cpp, GGUF)",
        r"^(?P<module>.+\.weight)\.(?:(?P<down>lora_a)|(?P<up>lora_b))$",
        Fate.READ,
        kin="gguf",
        axis=None,  # that of an embedding is stored transposed
    ),
    Method("LoRA (MLX)", PLAIN + r"(?:(?P<down>lora_a)|(?P<up>lora_b))$", Fate.READ, kin="mlx", axis=-1),
    Method("LoRA (torchtune)", PLAIN + r"(?:(?P<down>lora_a)|(?P<up>lora_b))\.weight$", Fate.READ, kin="torchtune"),
    Method(
        "LoRA (diffusers)",
        r"^(?P<module>(?:unet|transformer|text_encoder|prior|diffusion_model)(?:_\d)?\..+)\."
        r"(?:(?:(?P<down>lora_A|lora\.down|lora_linear_layer\.down)|(?P<up>lora_B|lora\.up|lora_linear_layer\.up))\.weight"
        r"|lora_magnitude_vector(?:\.weight)?)$",
        Fate.READ,
        "diffusers",
    ),
    Method(
        "LoRA (diffusers, old)",
        r"^(?P<module>.+\.(?:processor\.\w+|to_(?:[qkv]|out)))_lora\.(?:(?P<down>down)|(?P<up>up))\.weight$",
        Fate.READ,
        "diffusers",
    ),
    Method(
        "LoRA (cloneofsimo)",
        r"^(?P<module>\w+:(?:\d+|#)):(?:(?P<down>down)|(?P<up>up))$",
        Fate.READ,
        "cloneofsimo",
    ),
    Method("LoRA (LoRA-ViT)", r"^w_(?:(?P<down>a)|(?P<up>b))_(?P<module>\d+|#)$", Fate.READ, kin="vit", axis=None),
    Method("LoRMA", PLAIN + r"(?:(?P<down>lorma_A)|(?P<up>lorma_B))$", Fate.READ, kin="lorma", product=False),
    Method(
        "LoRA (NeMo)",
        PLAIN + r"adapter_layer\.\w+\.(?:(?P<down>linear_in)|(?P<up>linear_out))\.",
        Fate.READ,
        kin="nemo",
    ),
    Method(
        "LoRA (Megatron-Bridge, NeMo 2)",
        PLAIN + r"adapter\.(?:adapter_\w+\.)?(?:(?P<down>linear_in)|(?P<up>linear_out))\.",
        Fate.READ,
        kin="nemo",
    ),
    Method("textual inversion", r"^(?:<[^<>]*>|\*|emb_params|clip_[lg])$", Fate.NONE, "inversion"),
)
TOKENS = _peft("TRAINABLE_TOKENS", "trainable tokens", r"trainable_tokens_delta$", Fate.READ)
LORALIB = Method(
    "LoRA (loralib)",
    PLAIN + r"(?:(?P<down>lora_A)|(?P<up>lora_B))$",
    Fate.READ,
    kin="loralib",
    product=False,  # its MergedLinear stores the factors of several blocks under the same names
)
METHODS: tuple[Method, ...] = (*ADAPTER_HUB, *PEFT, *OTHERS, DORA, LORALIB, LORA, TOKENS, *LYCORIS)

BARE_PROMPT = Method("soft prompt (one bare matrix)", "^$", Fate.NONE)
FULL = Method("full checkpoint", "", Fate.READ)
BOOKKEEPING = re.compile(r"\.(?:alpha|scalar|rescale|m|magnitude|lora_B(?:\.[^.]+)?\.bias)$")
FROZEN = re.compile(r"\.original_module\.|\.base_layer\.weight$")


def recognise(tensors: Mapping[str, TensorInfo]) -> Contents:
    """Sort the names of a file by the rows of the table.

    Names that differ only in numbers are tried once, so that a checkpoint of 100,000 tensors takes no
    longer than its kinds of tensors. Of a file made of nothing but kinds the first ten thousand are tried, and
    no name longer than two thousand characters.
    """
    names = _listed(tensors)
    of_kind: dict[str, Method | None] = {}
    modules: dict[str, Factors] = {}
    adapters: set[str | None] = set()
    rest = []
    for virtual, name in names.items():
        kind = _NUMBER.sub("#", virtual)
        if kind not in of_kind and len(of_kind) < _MAX_KINDS and len(kind) < _MAX_NAME:
            of_kind[kind] = next((method for method in METHODS if method.matcher.search(kind)), None)
        method = of_kind.get(kind)
        if method is not None:
            _note_factor(method, virtual, name, modules, adapters)
        elif not BOOKKEEPING.search(name):
            rest.append(name)
    if list(tensors) == [""]:
        return Contents((BARE_PROMPT,), {}, frozenset(), ())
    found = {id(method) for method in of_kind.values()}
    methods = tuple(method for method in METHODS if id(method) in found)
    return Contents(methods or (FULL,), modules, frozenset(adapters), tuple(rest))


def _listed(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """Give cloneofsimo's bare lists `[up, down, up, down, ...]` the names its safetensors have."""
    shapes = [info.shape for info in tensors.values()]
    pairs = list(zip(shapes[::2], shapes[1::2], strict=False))
    numbered = list(tensors) == [str(index) for index in range(2 * len(pairs))]
    if not pairs or not numbered or any(len(up) < 2 or up[1] != down[0] for up, down in pairs):
        return {name: name for name in tensors}
    return {f"list:{int(name) // 2}:{('up', 'down')[int(name) % 2]}": name for name in tensors}


def _note_factor(
    method: Method, virtual: str, name: str, modules: dict[str, Factors], adapters: set[str | None]
) -> None:
    match = method.matcher.search(virtual)
    groups = match.groupdict() if match is not None else {}
    part = next((part for part in ("down", "up") if groups.get(part)), None)
    if part is None:
        return
    setattr(modules.setdefault(groups["module"], Factors()), part, name)
    if "adapter" in groups:
        adapters.add(groups["adapter"])


def of_peft(peft_type: str) -> Method | None:
    """Return the row of a `peft_type`, None when the table has none."""
    if peft_type == "LORA":
        return LORA
    return next((method for method in METHODS if peft_type in method.peft), None)


def rank_of(method: Method, tensors: Mapping[str, TensorInfo], factors: Factors) -> int | None:
    """Return the stored rank of a module, None where the factor that counts it is missing."""
    if factors.down is None:
        return None
    shape = tensors[factors.down].shape
    if not shape:
        return None
    if method.axis == -1 and len(shape) == 3:  # mlx's experts: (expert, rank, inputs)
        return shape[1]
    return min(shape) if method.axis is None else shape[method.axis]


def kins(methods: Iterable[Method]) -> list[str]:
    """Return the names of methods that do not belong into one file, one a kin; one name when all belong."""
    first: dict[str, str] = {}
    for method in methods:
        first.setdefault(method.kin or method.name, method.name)
    return list(first.values())
