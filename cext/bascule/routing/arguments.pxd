"""Validation of the arguments of one call of a route expression."""

from bascule.routing.expression cimport Call, Expression
from bascule.routing.pattern cimport Pattern, Prepared

# Fills `prepared`, and `pattern` for Host, Path, PathPrefix and Header; `regexps` remembers verdicts. RouteError.
cdef int prepare_call(Expression* e, Call* call, Pattern* pattern, Prepared* prepared, dict regexps) except -1
