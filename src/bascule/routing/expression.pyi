from bascule.routing.ast import Expression

CALL_NAMES: tuple[str, ...]

def parse(expression: str) -> Expression:
    """The syntax tree of a route expression; RouteError for bad syntax. Arguments are not looked into."""
