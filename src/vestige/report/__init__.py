"""The report of a study: one page that opens offline, and the same figures for a paper. No torch."""
