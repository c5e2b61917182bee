"""Messages and stubs of package deltapq.v1, made by generate.py from proto/."""
