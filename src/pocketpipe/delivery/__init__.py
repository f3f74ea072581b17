"""What leaves the house: folder layout, loader, runners. NumPy, pydantic and the standard library only."""
