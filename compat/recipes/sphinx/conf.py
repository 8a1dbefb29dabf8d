project = "poolwarden"
author = "nobody"
html_theme = "basic"
html_last_updated_fmt = None
