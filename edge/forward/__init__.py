"""Delivery: one lane a destination, transports that yield outcomes, and nothing that ever gives up."""
