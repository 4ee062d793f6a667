"""The figures of the study, from its tables alone: nothing is trained, decomposed or counted here."""
