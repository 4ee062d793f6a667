"""`python -m spectra` is the command `spectra`."""

from spectra.cli.main import main

main()
