"""What leaves the house: folder layout, loader, runners. NumPy and the standard library only."""
