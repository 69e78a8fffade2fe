"""A study as a whole: what there is to do, in what order, and doing it with several processes."""
