"""The names that modules of image models go by: components, flattened names, the two namings of a U-Net."""

import re
from collections.abc import Callable, Iterator, Mapping

from spectra.loaders.base import Base
from spectra.loaders.matching import plain
from spectra.loaders.pipeline import COMPONENTS

_TEXT_MODEL = "text_model."
# Where the components of a pipeline lie in one checkpoint of all of it (Stable Diffusion 1 to 3 and XL).
_IN_ONE_FILE = {
    "model.diffusion_model.": "unet",
    "cond_stage_model.transformer.": "text_encoder",
    "conditioner.embedders.0.transformer.": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoders.t5xxl.transformer.": "text_encoder_3",
}
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ALONE = {
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "conv_norm_out": "out.0",
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.0": "middle_block.0",
    "mid_block.resnets.1": "middle_block.2",
}  # fmt: skip
_BLOCK = re.compile(r"^(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)")


def modules_of(base: Base) -> dict[str, str]:
    """Return the base key of every module that has a weight matrix."""
    keys = {plain(base.name(key)): key for key, info in base.tensors.items() if len(info.shape) > 1}
    return {name.removesuffix(".weight"): key for name, key in keys.items() if name.endswith(".weight")}


def placed(base: Base) -> Iterator[tuple[str, str, str]]:
    """Yield for every module of the base: its component, its path inside it, the key of its weight.

    The component is empty where the base is one model.
    """
    components = base.source.config.get(COMPONENTS)
    for module, key in modules_of(base).items():
        component, _, path = module.partition(".")
        if isinstance(components, Mapping) and component in components:
            yield component, path, key
            continue
        front = next((front for front in _IN_ONE_FILE if module.startswith(front)), "")
        yield _IN_ONE_FILE.get(front, ""), module.removeprefix(front), key


def spellings(base: Base) -> Callable[[str, str], tuple[str, ...]]:
    """Return a function from a component and a path inside it to every name that files have for that module.

    transformers 5 left out the `text_model.` of CLIP; a U-Net has the names of diffusers and those of the original.
    """
    paths = [path for component, path, _ in placed(base) if component in ("", "unet")]
    to_original, to_diffusers = _original_names(paths), _diffusers_names(paths)

    def every(component: str, path: str) -> tuple[str, ...]:
        names = [path]
        if component in ("", "unet"):
            names += [name for name in (to_original(path), to_diffusers(path)) if name]
        if component.startswith("text_encoder") or not component:
            short = path.removeprefix(_TEXT_MODEL)
            names.append(short if short != path else _TEXT_MODEL + path)
        return tuple(names)

    return every


def _moved(path: str, table: Mapping[str, str]) -> str | None:
    """Return a path with its beginning replaced by what a table has for it."""
    found = next((front for front in table if path == front or path.startswith(front + ".")), None)
    return None if found is None else table[found] + path.removeprefix(found)


def _original_names(paths: list[str]) -> Callable[[str], str | None]:
    """Return a function from diffusers' name of a U-Net's module to the original one, None for what it does not know.

    A level of n resnets down has n + 1 up; what changes the resolution comes last in it.
    """
    found = [match for match in map(_BLOCK.match, paths) if match]
    layers = 1 + max((int(match[4]) for match in found if match[1] == "down" and match[3] == "resnets"), default=-1)
    attended = {int(match[2]) for match in found if match[1] == "up" and match[3] == "attentions"}

    def original(path: str) -> str | None:
        match = _BLOCK.match(path)
        if match is None or not layers:
            name = _moved(path, _ALONE) if layers else None
            return name and _inside(name, _RESNET, ".resnets." in path)
        level, kind, index = int(match[2]), match[3], int(match[4])
        rest, block = path[match.end() :], (layers + 1) * level
        if kind == "downsamplers":
            return f"input_blocks.{block + layers + 1}.0.op{rest.removeprefix('.conv')}"
        if kind == "upsamplers":
            return f"output_blocks.{block + layers}.{1 + (level in attended)}{rest}"
        front = f"input_blocks.{block + index + 1}" if match[1] == "down" else f"output_blocks.{block + index}"
        return _inside(f"{front}.{int(kind == 'attentions')}{rest}", _RESNET, kind == "resnets")

    return original


def _inside(name: str, table: Mapping[str, str], applies: bool) -> str:
    """Return a name with the part of a resnet at its end replaced."""
    if not applies:
        return name
    front, _, last = name.rpartition(".")
    return f"{front}.{table[last]}" if last in table else name


_ORIGINAL_BLOCK = re.compile(r"^(input|output)_blocks\.(\d+)\.(\d+)")


def _diffusers_names(paths: list[str]) -> Callable[[str], str | None]:
    """Return a function from the original name of a U-Net's module to diffusers', None for what it does not know."""
    downs = [int(path.split(".")[1]) for path in paths if re.fullmatch(r"input_blocks\.\d+\.0\.op", path)]
    size = min(downs, default=0)
    alone = {original: name for name, original in _ALONE.items()}
    resnet = {original: name for name, original in _RESNET.items()}

    def diffusers(path: str) -> str | None:
        match = _ORIGINAL_BLOCK.match(path)
        if not size or match is None or (match[1] == "input" and match[2] == "0"):
            name = _moved(path, alone) if size else None
            return name and _resnet_part(name, resnet)
        rest, inner = path[match.end() :], int(match[3])
        level, index = divmod(int(match[2]) - (match[1] == "input"), size)
        way = "down" if match[1] == "input" else "up"
        if rest == ".op" or (rest == ".conv" and inner):
            return f"{way}_blocks.{level}.{way}samplers.0.conv"
        kind = "attentions" if inner else "resnets"
        return _resnet_part(f"{way}_blocks.{level}.{kind}.{index}{rest}", resnet)

    return diffusers


def _resnet_part(name: str, table: Mapping[str, str]) -> str:
    found = next((part for part in table if name.endswith("." + part)), None)
    return name if found is None else name.removesuffix(found) + table[found]
