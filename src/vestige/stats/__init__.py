"""Intervals over seeds and effect sizes; numpy and scipy.special only (scipy.stats takes 1.3 s to import)."""
