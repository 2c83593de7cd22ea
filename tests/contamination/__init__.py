"""The check of contamination, and its drill: networks that learnt from test images, and clean ones."""
