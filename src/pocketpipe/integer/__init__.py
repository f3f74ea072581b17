"""The integer graph: one meaning of a quantized network on every target; `reference` is its definition."""
