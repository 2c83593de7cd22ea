"""The study that chose the cascade's plan: which walk breaks which image, and after how many passes."""
