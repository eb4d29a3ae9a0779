"""Fuzzing of the readers of sessions and recordings.

`python -m tests.fuzz READER` (`tox -e fuzz -- READER`) searches for bytes that make a reader raise,
keep too much, or see something else when they come in other pieces. `TARGETS` are the readers;
`corpus/READER/` is where each search begins. The unit tests try all of the corpus, and a little
beside it.
"""
