"""Intervals, tests, power over seeds; ranks, areas. numpy and scipy.special only: scipy.stats takes 1.3 s to import."""
