"""What a study claims, clause by clause, and what its tables say about it."""
