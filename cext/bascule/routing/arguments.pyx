"""Validation of the arguments of one call (contract: arguments.pxd)."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memchr, memcpy

from bascule.routing import pcre
from bascule.routing.expression cimport (
    CALL_CLIENT_IP, CALL_HEADER, CALL_HEADER_REGEXP, CALL_HOST, CALL_HOST_REGEXP, CALL_METHOD, CALL_METHOD_REGEXP, CALL_PATH,
    CALL_PATH_PREFIX, CALL_PATH_REGEXP, CALL_QUERY, CALL_QUERY_REGEXP, Argument, Call, Expression, expression_fail,
)
from bascule.routing.layout cimport (
    PREDICATE_CLIENT_IP, PREDICATE_HEADER, PREDICATE_HEADER_IS, PREDICATE_HEADER_PATTERN, PREDICATE_HEADER_REGEXP, PREDICATE_HOST,
    PREDICATE_HOST_REGEXP, PREDICATE_METHOD, PREDICATE_METHOD_REGEXP, PREDICATE_PATH, PREDICATE_PATH_REGEXP, PREDICATE_QUERY,
    PREDICATE_QUERY_IS, PREDICATE_QUERY_REGEXP,
)
from bascule.routing.pattern cimport Pattern, Prepared, pattern_header, pattern_host, pattern_path

STANDARD_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH")


cdef bint is_token(const char* text, uint32_t length) noexcept:
    """RFC 9110 section 5.6.2."""
    cdef uint32_t i
    cdef char c
    for i in range(length):
        c = text[i]
        if c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c'0' <= c <= c'9':
            continue
        if c == 0 or memchr(b"!#$%&'*+-.^_`|~", c, 15) == NULL:
            return False
    return length > 0


cdef int prepare_method(Expression* e, Argument* argument) except -1:
    if not is_token(argument.text, argument.length):
        expression_fail(e, "no method name", argument.position, 'write one method, as in Method("GET"); for several use ||')
    if argument.text[0] >= c'a':
        method = argument.text[:argument.length].decode()
        if method.upper() in STANDARD_METHODS:
            expression_fail(e, f"method {method!r} in lower case", argument.position,
                            f'methods are case-sensitive: write Method("{method.upper()}")')
    return 0


cdef int prepare_client_ip(Expression* e, Argument* argument, Prepared* prepared) except -1:
    import ipaddress  # 3 ms of CPU that most starts do not need

    text = argument.text[:argument.length].decode("utf-8", "replace")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return expression_fail(e, f"{text!r} is neither an address nor a network", argument.position,
                               "write one such as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
    if "/" in text and network.network_address != ipaddress.ip_interface(text).ip:
        return expression_fail(e, f"{text!r} has address bits beyond its prefix", argument.position, f"write {network}")
    packed = network.network_address.packed
    if network.version == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    memcpy(prepared.network, <const uint8_t*>packed, 16)
    prepared.prefix = network.prefixlen + (96 if network.version == 4 else 0)
    return 0


cdef int prepare_regexp(Expression* e, Argument* argument, bint caseless, dict regexps) except -1:
    pattern = argument.text[:argument.length]
    key = (pattern, caseless)
    if key not in regexps:
        if len(regexps) > 100_000:
            regexps.clear()
        regexps[key] = pcre.check(pattern, caseless)
    refusal = regexps[key]
    if refusal is not None:
        message, offset, remedy = refusal
        expression_fail(e, message, argument.position + <uint32_t>min(offset, len(pattern)), remedy)
    return 0


cdef int prepare_header(Expression* e, Call* call, Pattern* pattern, Prepared* prepared) except -1:
    if not is_token(call.arguments[0].text, call.arguments[0].length):
        expression_fail(e, "no header name", call.arguments[0].position, "use letters, digits and '-', as in X-Tenant")
    if call.name == CALL_HEADER_REGEXP:
        prepared.kind = PREDICATE_HEADER_REGEXP
    elif call.argument_count == 1:
        prepared.kind = PREDICATE_HEADER
    else:
        pattern_header(e, &call.arguments[1], pattern)
        prepared.kind = PREDICATE_HEADER_IS if pattern.literal else PREDICATE_HEADER_PATTERN
    return 0


cdef int prepare_query(Expression* e, Call* call, Prepared* prepared) except -1:
    if call.arguments[0].length == 0:
        expression_fail(e, "empty query parameter name", call.arguments[0].position, 'name it, as in Query("page")')
    if call.name == CALL_QUERY_REGEXP:
        prepared.kind = PREDICATE_QUERY_REGEXP
    else:
        prepared.kind = PREDICATE_QUERY if call.argument_count == 1 else PREDICATE_QUERY_IS
    return 0


cdef int prepare_call(Expression* e, Call* call, Pattern* pattern, Prepared* prepared, dict regexps) except -1:
    cdef uint8_t name = call.name
    cdef Argument* last = &call.arguments[call.argument_count - 1]
    if name == CALL_PATH or name == CALL_PATH_PREFIX:
        prepared.kind = PREDICATE_PATH
        return pattern_path(e, last, name == CALL_PATH_PREFIX, pattern)
    if name == CALL_HOST:
        prepared.kind = PREDICATE_HOST
        return pattern_host(e, last, pattern)
    if name == CALL_METHOD:
        prepared.kind = PREDICATE_METHOD
        return prepare_method(e, last)
    if name == CALL_CLIENT_IP:
        prepared.kind = PREDICATE_CLIENT_IP
        return prepare_client_ip(e, last, prepared)
    if name == CALL_HEADER or name == CALL_HEADER_REGEXP:
        prepare_header(e, call, pattern, prepared)
    elif name == CALL_QUERY or name == CALL_QUERY_REGEXP:
        prepare_query(e, call, prepared)
    elif name == CALL_HOST_REGEXP:
        prepared.kind = PREDICATE_HOST_REGEXP
    elif name == CALL_PATH_REGEXP:
        prepared.kind = PREDICATE_PATH_REGEXP
    elif name == CALL_METHOD_REGEXP:
        prepared.kind = PREDICATE_METHOD_REGEXP
    if name >= CALL_HOST_REGEXP:
        return prepare_regexp(e, last, name == CALL_HOST_REGEXP, regexps)
    return 0
