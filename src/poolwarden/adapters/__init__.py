"""One file a host: the only places that name one, and that import one."""
