"""Files of images and labels that people hand in, bounded before they are parsed."""
