"""The rigs: programs that harm an appliance on purpose and then ask whether it kept its word.

A rig is a module with `HELP`, `add_arguments` and `run`; `scripts/rigs/__main__.py` names them. The senders' own
ledger (`ledger.py`) and the oracle (`oracle.py`) are the same for all.
"""
