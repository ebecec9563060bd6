"""The catalogues of the languages: what the code says, and how it is said elsewhere."""
