"""What can only be seen on a GPU, in one run of a few minutes; the same code is rehearsed on a CPU."""
