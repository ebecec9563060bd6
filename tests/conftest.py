"""How the whole suite is run: in which order, and what a busy machine may not make of it."""

import pytest
from hypothesis import HealthCheck, settings

# how fast a machine draws examples says nothing about the program
settings.register_profile("suite", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long, which drive real programs: at the end one of two workers would be idle."""
    rigs = {item.path for item in items if item.get_closest_marker("rig")}
    items.sort(key=lambda item: item.path not in rigs)
