"""Updates of the box's image: asking for one, carrying it out as root, trial, roll-back, and telling of all that.

Two sides that trust each other little: the appliance asks (`wanted`) and tells (`watch`) without rights; root's side
(`carrying`, `good`) reads what was asked as if a stranger had written it, and writes the one record (`state`).
"""
