"""How a checkpoint of a stranger comes in: received, converted once in a locked child, ticketed."""
