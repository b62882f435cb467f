"""Texts of policies, and their problems: helpers of several test files."""

from procmon import Policy

__all__ = ["problems", "rule"]


def problems(text: str) -> list[str]:
    """Every problem that a check finds in a policy, as text."""
    return [str(problem) for problem in Policy.check(text)]


def rule(body: str) -> str:
    """One rule."""
    return f"[[rule]]\n{body}\n"
