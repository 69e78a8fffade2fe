"""The neuron browser of the report: a table of all neurons at a checkpoint, and a page of each neuron's life."""
