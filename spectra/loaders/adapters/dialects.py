"""The table of dialects. A new one is one file and one row; the first that recognises a file reads it."""

from spectra.loaders.adapters.adapter import Dialect, Found
from spectra.loaders.adapters.adapterhub import ADAPTER_HUB
from spectra.loaders.adapters.bare import BARE
from spectra.loaders.adapters.cloneofsimo import CLONEOFSIMO
from spectra.loaders.adapters.diffusers import DIFFUSERS
from spectra.loaders.adapters.kohya import KOHYA
from spectra.loaders.adapters.gguf_lora import GGUF_LORA
from spectra.loaders.adapters.lora_xs import LORA_XS_FOLDER
from spectra.loaders.adapters.loralib import LORALIB
from spectra.loaders.adapters.lorma import LORMA
from spectra.loaders.adapters.mlx import MLX
from spectra.loaders.adapters.nemo import NEMO
from spectra.loaders.adapters.peft import PEFT
from spectra.loaders.adapters.torchtune import TORCHTUNE

DIALECTS: tuple[Dialect, ...] = (
    LORA_XS_FOLDER,
    ADAPTER_HUB,
    BARE,
    GGUF_LORA,
    LORMA,
    LORALIB,
    MLX,
    NEMO,
    TORCHTUNE,
    KOHYA,
    DIFFUSERS,
    CLONEOFSIMO,
    PEFT,
)


def dialect_of(found: Found) -> Dialect | None:
    """Return the dialect that something is written in, None where it is no adapter that is read."""
    return next((dialect for dialect in DIALECTS if dialect.recognises(found)), None)
