"""How close a network is to linear, by measures of several kinds, each beside its value without the ReLUs."""

from vestige.measurement.linearity.measuring import measure_linearity as measure_linearity
