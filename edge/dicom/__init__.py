"""DICOM itself: the upper layer, command sets, headers, Part 10, statuses. Knows no queue."""
