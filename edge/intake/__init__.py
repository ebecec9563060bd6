"""Everything between a peer's first byte and the row in the store: doors, seal, index, recovery."""
