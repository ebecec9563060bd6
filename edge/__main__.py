"""`python -m edge` is `edge`."""

from edge.cli import main

main(prog_name="edge")
