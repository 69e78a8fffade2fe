"""Neurons replaced: one at a time, in groups, in growing sets; exactly, or estimated and corrected on some images."""
