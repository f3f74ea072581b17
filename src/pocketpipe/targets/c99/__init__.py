"""The integer graph as self-contained C99, for microcontrollers and synthesis tools."""
