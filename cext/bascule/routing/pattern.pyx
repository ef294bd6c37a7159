"""Cuts the arguments of Host, Path, PathPrefix and Header into segments and judges how specific they are."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from bascule.routing.expression cimport EXPRESSION_BYTES_MAX, Argument, Expression, expression_fail
from bascule.routing.layout cimport (
    SEGMENT_INT, SEGMENT_LITERAL, SEGMENT_STRING, TAIL_ANY, TAIL_END, TAIL_MORE,
)
from bascule.routing.path cimport PATH_CANONICAL, PATH_REFUSED, path_canonical

cdef enum ParameterType:
    PARAMETER_STRING = 0
    PARAMETER_INT = 1
    PARAMETER_REST = 2

cdef struct Parameter:
    uint8_t type
    const char* name
    uint16_t name_length


cdef inline bint is_letter(char c) noexcept:
    return c'a' <= c <= c'z' or c'A' <= c <= c'Z' or c == c'_'


cdef int read_parameter(Expression* e, Argument* argument, const char* open_, const char* end, Parameter* out,
                        const char** after) except -1:
    """Reads "<name>", "<int:name>" or "<path:name>" starting at `open_`."""
    cdef const char* close = <const char*>memchr(open_, c'>', end - open_)
    cdef const char* colon
    cdef uint32_t position = argument.position + <uint32_t>(open_ - argument.text)
    cdef const char* at
    if close == NULL:
        expression_fail(e, "parameter without '>'", position, "close it, as in <name>")
    out.name = open_ + 1
    out.type = PARAMETER_STRING
    colon = <const char*>memchr(open_, c':', close - open_)
    if colon != NULL:
        type_name = open_[1:colon - open_].decode("utf-8", "replace")
        if type_name not in ("string", "int", "path"):
            expression_fail(e, f"unknown parameter type {type_name!r}", position, "use <name>, <int:name> or <path:name>")
        out.type = {"string": PARAMETER_STRING, "int": PARAMETER_INT, "path": PARAMETER_REST}[type_name]
        out.name = colon + 1
    out.name_length = <uint16_t>(close - out.name)
    at = out.name
    while at < close and (is_letter(at[0]) or (at > out.name and c'0' <= at[0] <= c'9')):
        at += 1
    if at != close or out.name_length == 0 or out.name_length > 64:
        expression_fail(e, "bad parameter name", position, "use up to 64 letters, digits and '_', not starting with a digit")
    after[0] = close + 1
    return 0


cdef int read_segment(Expression* e, Argument* argument, const char* start, const char* end, PatternSegment* out,
                      Parameter* rest) except -1:
    """One segment. Returns 1 if it is a <path:name> standing alone, which is left in `rest`; else 0 and fills `out`."""
    cdef const char* open_ = <const char*>memchr(start, c'<', end - start) if end > start else NULL
    cdef Parameter parameter
    cdef const char* after = NULL
    cdef uint32_t position
    out.prefix = start
    out.suffix = out.name = end
    out.suffix_length = out.name_length = 0
    if open_ == NULL:
        out.kind = SEGMENT_LITERAL
        out.prefix_length = <uint16_t>(end - start)
        return 0
    position = argument.position + <uint32_t>(open_ - argument.text)
    read_parameter(e, argument, open_, end, &parameter, &after)
    if parameter.type == PARAMETER_REST:
        if open_ != start or after != end:
            expression_fail(e, "<path:...> beside other text", position, "it must be a whole segment, as in /files/<path:rest>")
        rest[0] = parameter
        return 1
    if after < end and memchr(after, c'<', end - after) != NULL:
        expression_fail(e, "two parameters in one segment", position,
                        "a segment can hold one parameter with text before and after it; use PathRegexp for more")
    out.kind = SEGMENT_INT if parameter.type == PARAMETER_INT else SEGMENT_STRING
    out.prefix_length = <uint16_t>(open_ - start)
    out.suffix = after
    out.suffix_length = <uint16_t>(end - after)
    out.name = parameter.name
    out.name_length = parameter.name_length
    return 0


cdef void finish(Pattern* pattern) noexcept:
    """Counts captures and literal bytes, and makes the specificity keys.

    Keys compare like the kinds one after the other, from the root of the path (the right end of the host) on: literal or exact
    end 7, parameter with literal text <int> 6 and <string> 5, <int> 4, <string> 3, "more must follow" 2, "anything may follow" 1.
    Two patterns that match one request and have equal keys differ at most in the literal text inside segments with parameters.
    """
    cdef uint32_t i
    cdef uint64_t kind
    cdef PatternSegment* segment
    pattern.keys[0] = pattern.keys[1] = 0
    pattern.literal_bytes = pattern.captures = 0
    pattern.literal = pattern.tail == TAIL_END
    for i in range(pattern.count + 1):
        if i == pattern.count:
            kind = 7 if pattern.tail == TAIL_END else 2 if pattern.tail == TAIL_MORE else 1
        else:
            segment = &pattern.segments[i]
            pattern.literal_bytes += segment.prefix_length + segment.suffix_length
            if segment.kind == SEGMENT_LITERAL:
                kind = 7
            else:
                pattern.captures += 1
                pattern.literal = 0
                kind = 3 if segment.kind == SEGMENT_STRING else 4
                if segment.prefix_length + segment.suffix_length:
                    kind += 2
        if i < 21:
            pattern.keys[0] |= kind << (61 - 3 * i)
        else:
            pattern.keys[1] |= kind << (61 - 3 * (i - 21))
    if pattern.rest:
        pattern.captures += 1


cdef int fail_segments(Expression* e, Argument* argument, uint32_t maximum) except -1:
    return expression_fail(e, f"more than {maximum} segments", argument.position, "shorten the pattern or use the Regexp form")


cdef int split(Expression* e, Argument* argument, const char* start, const char* end, Pattern* pattern) except -1:
    """Cuts [start, end) at '/': at least one segment, perhaps empty."""
    cdef const char* stop
    cdef Parameter rest
    pattern.count = 0
    pattern.rest = 0
    pattern.tail = TAIL_END
    while True:
        stop = <const char*>memchr(start, c'/', end - start) if end > start else NULL
        if pattern.count == PATH_SEGMENTS_MAX:
            fail_segments(e, argument, PATH_SEGMENTS_MAX)
        if read_segment(e, argument, start, end if stop == NULL else stop, &pattern.segments[pattern.count], &rest):
            if stop != NULL:
                expression_fail(e, "<path:...> before the end", argument.position + <uint32_t>(start - argument.text),
                                "it takes all that follows, so it must come last; use <name> for one segment")
            pattern.tail = TAIL_MORE
            pattern.rest = 1
            pattern.rest_name = rest.name
            pattern.rest_name_length = rest.name_length
            return 0
        pattern.count += 1
        if stop == NULL:
            return 0
        start = stop + 1


cdef int check_canonical(Expression* e, Argument* argument, const char* text, uint32_t length) except -1:
    """A pattern that is not canonical could never match, because requests are made canonical first."""
    cdef char[EXPRESSION_BYTES_MAX] out
    cdef uint32_t out_length = length
    cdef int result = path_canonical(text, length, out, &out_length)
    if result == PATH_REFUSED:
        expression_fail(e, "no valid path", argument.position,
                        "percent-encode what may not stand in a path (a space is %20); encoded slashes, backslashes, "
                        "NUL and '..' above the root are refused in requests too")
    elif result != PATH_CANONICAL and (out_length != length or memcmp(out, text, length) != 0):
        expression_fail(e, "path not in canonical form", argument.position, f"write {out[:out_length].decode()}")
    return 0


cdef int pattern_path(Expression* e, Argument* argument, bint is_prefix, Pattern* pattern) except -1:
    cdef const char* text = argument.text
    cdef uint32_t length = argument.length
    if length == 0 or text[0] != c'/':
        expression_fail(e, "path without '/' at its start", argument.position, "begin it with '/'")
    if memchr(text, c'<', length) == NULL:
        check_canonical(e, argument, text, length)
    else:
        check_around_parameters(e, argument)
    split(e, argument, text + 1, text + length, pattern)
    if is_prefix and not pattern.rest:
        if pattern.segments[pattern.count - 1].kind == SEGMENT_LITERAL and pattern.segments[pattern.count - 1].prefix_length == 0:
            pattern.count -= 1
            pattern.tail = TAIL_MORE
        else:
            pattern.tail = TAIL_ANY
    finish(pattern)
    return 0


cdef int check_around_parameters(Expression* e, Argument* argument) except -1:
    """Checks the path with each parameter replaced by a letter."""
    cdef char[EXPRESSION_BYTES_MAX] plain
    cdef uint32_t used = 0
    cdef const char* at = argument.text
    cdef const char* end = argument.text + argument.length
    cdef Parameter parameter
    while at < end:
        if at[0] == c'<':
            read_parameter(e, argument, at, end, &parameter, &at)
            plain[used] = c'x'
        else:
            plain[used] = at[0]
            at += 1
        used += 1
    return check_canonical(e, argument, plain, used)


cdef int check_host(Expression* e, Argument* argument) except -1:
    cdef uint32_t i
    cdef char c
    cdef bint inside = False
    if argument.length == 0:
        expression_fail(e, "empty host", argument.position, "name a host, or leave Host out to match any")
    if argument.text[0] == c'[':
        if argument.text[argument.length - 1] != c']':
            expression_fail(e, "IPv6 host without ']' at its end", argument.position, "write [::1], without a port")
        return 0
    for i in range(argument.length):
        c = argument.text[i]
        if c == c'<':
            inside = True
        elif c == c'>':
            inside = False
        elif inside:
            continue
        elif c == c':':
            expression_fail(e, "port in a host", argument.position + i, "leave the port out; the listener's address decides it")
        elif c & 0x80:
            expression_fail(e, "host with characters beyond ASCII", argument.position + i, "write it in punycode (xn--...)")
        elif c == c'*':
            if i > 0 or argument.length < 3 or argument.text[1] != c'.':
                expression_fail(e, "'*' is not the whole first label", argument.position + i,
                                'write *.example.com, or "<name>" for one label; leave Host out to match any host')
        elif not (is_letter(c) or c'0' <= c <= c'9' or c == c'-' or c == c'.'):
            expression_fail(e, f"character {chr(<uint8_t>c)!r} in a host", argument.position + i,
                            "use letters, digits, '-' and '.'")
    return 0


cdef int pattern_host(Expression* e, Argument* argument, Pattern* pattern) except -1:
    cdef const char* text = argument.text
    cdef const char* stop = text + argument.length
    cdef const char* start
    cdef Parameter rest
    cdef PatternSegment* segment
    check_host(e, argument)
    pattern.count = 0
    pattern.rest = 0
    pattern.tail = TAIL_END
    while True:
        start = stop
        while start > text and (start - 1)[0] != c'.' and text[0] != c'[':
            start -= 1
        if text[0] == c'[':
            start = text
        if start == stop:
            expression_fail(e, "empty label in a host", argument.position, "remove the dot too many")
        if pattern.count == HOST_LABELS_MAX:
            fail_segments(e, argument, HOST_LABELS_MAX)
        segment = &pattern.segments[pattern.count]
        if stop - start == 1 and start[0] == c'*':
            pattern.tail = TAIL_MORE
            pattern.rest = 1
            pattern.rest_name = start
            pattern.rest_name_length = 0
            break
        if read_segment(e, argument, start, stop, segment, &rest):
            if start != text:
                expression_fail(e, "<path:...> is not the first label", argument.position,
                                "it takes all labels to its left, so it must come first; use <name> for one label")
            pattern.tail = TAIL_MORE
            pattern.rest = 1
            pattern.rest_name = rest.name
            pattern.rest_name_length = rest.name_length
            break
        pattern.count += 1
        if start == text:
            break
        stop = start - 1
    finish(pattern)
    return 0


cdef int pattern_header(Expression* e, Argument* argument, Pattern* pattern) except -1:
    split(e, argument, argument.text, argument.text + argument.length, pattern)
    finish(pattern)
    return 0
