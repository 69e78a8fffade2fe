"""One training loop, what hooks into it, and the state it can be resumed from."""
