"""The language of a study's own claims: what it is made of, and a parser that runs nothing."""
