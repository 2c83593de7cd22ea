"""The commands of `python -m bench`, one file a group; each adds itself to the parser."""
