"""Bytes that nobody meant: every reader of foreign bytes, fed by a coverage-guided fuzzer (`make fuzz`).

What was found stays in `corpus/<target>/`; `test_corpus.py` replays it with every run of the tests.
"""
