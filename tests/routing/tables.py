"""Small route tables for the tests of routing."""

from collections.abc import Sequence
from typing import Any

from bascule.routing.compile import RouteCompiler
from bascule.routing.image import wrap_sections
from bascule.routing.match import Matcher


def compile_table(routes: Sequence[str | tuple[str, int]]) -> tuple[RouteCompiler, bytes]:
    """The compiler and the image of the given routes (or route and priority); the n-th is frontend n with id "f<n>"."""
    compiler = RouteCompiler()
    for index, route in enumerate(routes):
        expression, priority = route if isinstance(route, tuple) else (route, 0)
        compiler.add(index, f"f{index:03d}", expression, priority)
    return compiler, wrap_sections(compiler.sections(), len(routes))


def winner(routes: Sequence[str | tuple[str, int]], **request: Any) -> int | None:
    """The frontend that gets a request."""
    return Matcher(compile_table(routes)[1]).match(**request).frontend
