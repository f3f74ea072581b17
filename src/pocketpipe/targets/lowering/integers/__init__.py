"""Kernels of the integer graph: int8 between operators, sums of products in int32, in the processor's own vectors."""
