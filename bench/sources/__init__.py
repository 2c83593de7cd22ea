"""Where a model comes from: a checkpoint folder, RobustBench's zoo, a Python file of one's own."""
