"""The pages of the board, one file a page; nothing here loads torch."""
