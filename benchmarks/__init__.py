"""What exclusive jobs cost: `make bench`. Each figure is a median, as a ratio to a floor measured in the same run where
there is one, with the limit that it must keep."""
