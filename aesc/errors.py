"""The one error that a user of this project is meant to read."""

from __future__ import annotations


class AescError(Exception):
    """A fault of input or environment that a person can mend.

    The four parts answer what a reader asks, in this order: where, what, what instead, what now.

    Args:
        where: the file, key, flag or address at fault.
        found: what was found there.
        allowed: what is allowed there; empty where that goes without saying.
        todo: what to do next; empty where nothing but mending it would help.
        usage: True if the command itself was wrong (exit code 2) rather than what it worked on (exit code 1).
        transient: True if the same may go well a little later (a server that is away), so that a retry is worth it.
    """

    def __init__(
        self,
        where: object,
        found: str,
        *,
        allowed: str = "",
        todo: str = "",
        usage: bool = False,
        transient: bool = False,
    ) -> None:
        self.where = str(where)
        self.found = found
        self.allowed = allowed
        self.todo = todo
        self.usage = usage
        self.transient = transient
        super().__init__(self.where, found)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.found}"]
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.todo:
            lines.append(f"  to do:   {self.todo}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default reduction, and orchestrators pickle exceptions.
        return (_restore, (type(self), dict(self.__dict__)))

    def to_dict(self) -> dict[str, str]:
        """The four parts by name, for `--json`."""
        return {"where": self.where, "found": self.found, "allowed": self.allowed, "todo": self.todo}


def _restore(cls: type[AescError], state: dict[str, object]) -> AescError:
    error = cls.__new__(cls)
    error.__dict__.update(state)
    Exception.__init__(error, state["where"], state["found"])
    return error
