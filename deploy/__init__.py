"""Ways to run the project on one machine; not part of the package that gets installed."""
