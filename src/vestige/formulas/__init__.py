"""The formulas of SCIENCE.md: pure functions on tensors, shared by penalties and measurements."""
