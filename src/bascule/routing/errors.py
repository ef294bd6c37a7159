"""What a route expression can be refused with."""


class RouteError(ValueError):
    """A route expression that cannot be used.

    Attributes: `message` says what is wrong, `position` where (0-based character of the expression), `remedy` what to
    write instead.
    """

    def __init__(self, message: str, position: int, remedy: str) -> None:
        """Makes the text of the error from its three parts."""
        super().__init__(f"{message} (at character {position + 1}): {remedy}")
        self.message = message
        self.position = position
        self.remedy = remedy
