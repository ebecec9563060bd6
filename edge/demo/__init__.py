"""The demonstration: a modality, an appliance and a PACS that comes and goes, on this machine alone."""
