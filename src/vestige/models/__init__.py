"""Networks: build, load and trace them, name their layers, capture, edit and replay their values."""
