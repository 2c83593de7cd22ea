"""From a model and its images to a record: prepare the searched copy, shards, attack, judge, merge."""
