"""The dialect of PEFT: `adapter_config.json` beside one file of tensors named after the modules they adapt."""

from spectra.errors import MatchError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.beside import with_trained_beside
from spectra.loaders.adapters.config import CONFIG_NAME, read_config
from spectra.loaders.adapters.contents import sort_tensors
from spectra.loaders.adapters.families import family_of
from spectra.loaders.plan import Plan
from spectra.text import show


def _recognises(found: Found) -> bool:
    return bool(found.raw)


def _read(found: Found, plan: Plan) -> Adapter:
    config = read_config(found.raw)
    family = family_of(config)
    source = with_trained_beside(found.source, found.folder)
    plan.source = source
    contents = sort_tensors(family, plan)
    if not contents.modules:
        raise MatchError(
            f"'{show(source.label)}' has an {CONFIG_NAME} but no {family.method} tensors. If it is a merged "
            "model, give its weights file instead of its folder."
        )
    plan.notes.extend(family.notes(config))
    return Adapter(config, source, contents)


PEFT = Dialect("PEFT", _recognises, _read)
