"""dicom-edge: a DICOM store-and-forward appliance that says yes only after the sync."""

__version__ = "0.1.0"
