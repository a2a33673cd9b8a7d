"""The verifier `numeric`: reading the value of an answer and comparing it with the reference's."""

from meteor_agents.verifiers.numeric.verifier import NumericOptions, NumericVerifier

__all__ = ["NumericOptions", "NumericVerifier"]
