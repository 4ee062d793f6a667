"""Every refusal `spectra` makes, as one tree.

Each class says when it is raised; each message says what, where, why and what to do.
The command line turns `exit_code` into its own; a library caller catches `SpectraError`.
"""


class SpectraError(Exception):
    """Root of every refusal. Raised as one of the classes below, never by itself."""

    exit_code = 3


class UsageError(SpectraError, ValueError):
    """An argument is outside its range (`k=0`, `epsilon=1.5`, an unknown side). Change the argument."""

    exit_code = 2


class InputError(SpectraError, ValueError):
    """A file, folder or object given as base or tuned cannot be used. The message names it."""


class FormatError(InputError):
    """A file is broken: truncated, overlapping, not what its name says. Download or save it again."""


class UnsafeFileError(InputError):
    """A file would run code, lead outside its folder, or claim memory it does not hold."""


class UnsupportedError(InputError):
    """A method or storage scheme that this version does not read. The message names it and the way round."""


class MatchError(InputError):
    """Base and tuned do not belong together: a tensor matches nothing, or shapes disagree."""


class MachineError(SpectraError):
    """The machine, not the input: disk full, a missing package, no such device."""

    exit_code = 4


class DecompositionError(SpectraError):
    """Every step of the decomposition chain failed on one matrix. That matrix becomes a failed row."""


class NonFiniteError(DecompositionError):
    """A matrix holds NaN or infinity, so it has no singular values. It becomes a `nonfinite` row."""
