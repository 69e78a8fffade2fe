"""Measuring somebody's own model, without a study: its weights, its data, its folder of results."""
