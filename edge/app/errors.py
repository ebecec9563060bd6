"""Why an appliance does not start."""


class StartError(Exception):
    """The appliance cannot start; the text says what, why and what to do."""
