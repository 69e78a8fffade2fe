"""Measurements: a network and labelled images in, tidy tables out."""
