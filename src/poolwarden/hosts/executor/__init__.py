"""ProcessPoolExecutor and loky."""
