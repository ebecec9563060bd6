"""`scripts/test` makes ready what the tests of the box use and what is kept between runs: tools, Debian for the box.

Minutes at the first time, nothing afterwards; beside the tests, it would run into their time limits.
"""

from box import package, place, preflight
from box.build import console, prepare, step
from box.rootfs import base
from box.toolbox import BuildError, toolbox


def main() -> None:
    """Make it, or say why not; then the tests say that they are skipped."""
    try:
        if preflight.can_mend():
            prepare("amd64", place.cache())
        if preflight.missing("amd64", room=place.cache()):
            return
        with step("tools for the box"):
            toolbox()
        with step("Debian for the box"):
            base("amd64", epoch=package.epoch())
    except BuildError as e:
        console.print(f"NOT READY for tests of the box: {e}", style="yellow", markup=False)


if __name__ == "__main__":
    main()
