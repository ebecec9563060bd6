"""Setting a box up from the one file that is put on its card: read, judged whole, written whole, wiped.

`edge provision` runs as root at each start, before the network and the appliance. Nothing here is needed by either of
them while they run.
"""
