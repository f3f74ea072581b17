"""exp, tanh, sigmoid, erf as short polynomials that vectorize: no call into libm, the same result on every CPU.

Registered as TVM's lowering for LLVM. Formulas: exp after Cephes (Moshier), tanh and erf as the rational functions of
Eigen; within a few units of the last place of float32 of the true value, absolutely.
"""

from collections.abc import Callable
from functools import cache, reduce
from typing import Any

from tvm import tirx

from pocketpipe.targets.lowering.loops import constant, lanes_of, of

Coefficients = tuple[float, ...]

TANH_ABOVE: Coefficients = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08)
TANH_ABOVE += (1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)
TANH_BELOW = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
ERF_ABOVE: Coefficients = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05)
ERF_ABOVE += (-7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)
ERF_BELOW: Coefficients = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03)
ERF_BELOW += (-1.42647390514189e-02,)
EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
LOG2_E = 1.44269504088896341
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
"""ln 2 in two parts: the first has few bits, so that its multiples are exact."""


@cache
def register() -> None:
    """Make TVM lower these functions for LLVM as said here. Once a process."""
    rules = {"exp": _exp, "tanh": _tanh, "sigmoid": _sigmoid, "erf": _erf}
    for name, rule in rules.items():
        tirx.op.register_intrin_lowering(f"tirx.{name}", target="llvm", f=_for_float32(rule), level=101)


def _for_float32(rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def lower(call: Any) -> Any:
        return rule(call.args[0]) if str(call.ty.dtype).startswith("float32") else call

    return lower


def _exp(x: Any) -> Any:
    def body(clipped: Any) -> Any:
        def scaled(power: Any) -> Any:
            def polynomial(rest: Any) -> Any:
                series = _polynomial(EXP, rest) * rest * rest + rest + _like(rest, 1.0)
                exponent = (_cast(power, "int32") + _like(power, 127, "int32")) << _like(power, 23, "int32")
                return series * tirx.reinterpret(of("float32", lanes_of(power)), exponent)

            return _let(clipped - power * _like(power, LN2_HIGH) - power * _like(power, LN2_LOW), polynomial)

        return _let(tirx.floor(clipped * _like(clipped, LOG2_E) + _like(clipped, 0.5)), scaled)

    # Below -87.3 the result is smaller than every normal float32, above 88.37 it is infinite for others.
    return _let(_clip(x, -87.3, 88.37), body)


def _sigmoid(x: Any) -> Any:
    return _like(x, 1.0) / (_like(x, 1.0) + tirx.exp(_like(x, 0.0) - x))


def _tanh(x: Any) -> Any:
    return _rational(x, 9.0, TANH_ABOVE, TANH_BELOW)


def _erf(x: Any) -> Any:
    return _rational(x, 4.0, ERF_ABOVE, ERF_BELOW)


def _rational(x: Any, bound: float, above: Coefficients, below: Coefficients) -> Any:
    """x * above(x^2) / below(x^2), x clipped to +-bound: an odd function that is flat outside."""

    def fraction(clipped: Any) -> Any:
        return _let(clipped * clipped, lambda square: clipped * _polynomial(above, square) / _polynomial(below, square))

    return _let(_clip(x, -bound, bound), fraction)


def _polynomial(coefficients: Coefficients, x: Any) -> Any:
    """Horner's rule, highest power first."""
    return reduce(lambda total, c: total * x + _like(x, c), coefficients[1:], _like(x, coefficients[0]))


def _clip(x: Any, low: float, high: float) -> Any:
    return tirx.Max(tirx.Min(x, _like(x, high)), _like(x, low))


def _let(value: Any, body: Callable[[Any], Any]) -> Any:
    """`body` of a name for `value`, so that the value is computed, and stands in the expression, once."""
    variable = tirx.Var("v", value.ty.dtype)
    return tirx.Let(variable, value, body(variable))


def _like(x: Any, value: float, kind: str = "float32") -> Any:
    return constant(value, lanes_of(x), kind)


def _cast(x: Any, kind: str) -> Any:
    return tirx.Cast(of(kind, lanes_of(x)), x)
