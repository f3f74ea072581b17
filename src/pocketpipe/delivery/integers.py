"""The numbers that a delivery in C takes and gives, and what they stand for."""

import numpy as np

from pocketpipe.delivery import model
from pocketpipe.doors import Value
from pocketpipe.errors import UserError
from pocketpipe.integer.graph import IntegerTensor
from pocketpipe.task import Preprocessing

BYTES = "uint8"
"""NumPy name of the stored type that such a delivery takes as it is."""


class Integers(Value):
    """int8 outputs, for stored bytes or for int8 inputs.

    >>> grid = IntegerTensor((2,), scale=0.5, zero_point=-1)
    >>> Integers(input=grid, output=grid).entering(np.array([[0.0, 3.2]]), Preprocessing()).tolist()
    [[-1, 5]]
    >>> Integers(input=None, output=grid).leaving(np.array([[-1, 5]], np.int8)).tolist()
    [[0.0, 3.0]]
    """

    input: IntegerTensor | None
    """Of what is prepared outside; None: stored bytes enter as they are, all preparation is inside."""
    output: IntegerTensor

    @property
    def input_type(self) -> str:
        """In C."""
        return "uint8_t" if self.input is None else "int8_t"

    def entering(self, stored: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
        """Stored examples (N, ...) as the delivery takes them: uint8 or int8, same shape.

        Raises UserError for what is no byte where bytes are stored.
        """
        if self.input is None:
            return as_bytes(stored)
        return self.input.quantized(preprocessing(stored))

    def leaving(self, outputs: np.ndarray) -> np.ndarray:
        """int8 outputs as the real numbers that they stand for, float32."""
        return self.output.real(outputs)


def as_bytes(stored: np.ndarray) -> np.ndarray:
    """The same numbers as uint8. Raises UserError for what is no byte."""
    try:
        return model.as_bytes(stored)
    except ValueError as error:
        raise UserError(str(error)) from error
