"""Everything that runs in a worker process, and nothing else.

Each worker pays for what is imported here, so these modules import only each
other and small parts of the standard library: no dataclasses, no typing at
run time, no wrapt. The parent imports them too, for the layout of the ledger
and of the payloads.
"""
