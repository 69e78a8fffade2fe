"""The files of a study: where they lie, what is in them, and how they are written so that nothing is lost."""
