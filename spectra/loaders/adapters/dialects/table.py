"""The table of dialects. A new one is one file and one row; the first that recognises a file reads it."""

from spectra.loaders.adapters.adapter import Dialect, Found
from spectra.loaders.adapters.dialects.adapterhub import ADAPTER_HUB
from spectra.loaders.adapters.dialects.bare import BARE
from spectra.loaders.adapters.dialects.cloneofsimo import CLONEOFSIMO
from spectra.loaders.adapters.dialects.diffusers import DIFFUSERS
from spectra.loaders.adapters.dialects.gguf_lora import GGUF_LORA
from spectra.loaders.adapters.dialects.kohya import KOHYA
from spectra.loaders.adapters.dialects.lora_xs import LORA_XS_FOLDER
from spectra.loaders.adapters.dialects.loralib import LORALIB
from spectra.loaders.adapters.dialects.lorma import LORMA
from spectra.loaders.adapters.dialects.mlx import MLX
from spectra.loaders.adapters.dialects.nemo import NEMO
from spectra.loaders.adapters.dialects.peft import PEFT
from spectra.loaders.adapters.dialects.torchtune import TORCHTUNE

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
