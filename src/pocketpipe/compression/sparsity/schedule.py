"""How the density falls while a network is trained."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CubicSchedule:
    """Zhu & Gupta 2017, section 3: s_t = s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, with s_i = 0.

    s is the share of zeros, 1 - density. t_0 = `begin` and t_0 + n dt = `end` are shares of the training;
    masks change at n + 1 times t_0, t_0 + dt, ..., numbered 0 to n = `renewals`.

    >>> schedule = CubicSchedule(begin=0.2, end=0.6, renewals=4)
    >>> [round(schedule.density(renewal, final=0.2), 3) for renewal in range(5)]
    [1.0, 0.538, 0.3, 0.213, 0.2]
    >>> [schedule.renewal(progress) for progress in (0.0, 0.2, 0.35, 0.6, 1.0)]
    [0, 0, 1, 4, 4]
    """

    begin: float
    end: float
    renewals: int

    def renewal(self, progress: float) -> int:
        """Number of the latest renewal after this share of the training; 0 before the first."""
        if progress >= self.end:
            return self.renewals
        return max(0, int((progress - self.begin) / (self.end - self.begin) * self.renewals))

    def density(self, renewal: int, final: float) -> float:
        """Share of weights that stay from this renewal on; `final` at the last one, exactly."""
        return final + (1.0 - final) * (1.0 - renewal / self.renewals) ** 3
