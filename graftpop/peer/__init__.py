"""One peer: a learner with its methods, driven by plain calls that take and return numbers, bytes and arrays."""
