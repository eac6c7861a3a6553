"""Measurements against a reference in the same run: training, prefill, decoding, memory, single ops."""
