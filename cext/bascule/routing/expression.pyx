"""The parser of the route language (grammar: expression.pxd)."""

from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, strlen

from bascule.routing.errors import RouteError

CALL_NAMES = ("Host", "Path", "PathPrefix", "Method", "Header", "Query", "ClientIP",
              "HostRegexp", "PathRegexp", "MethodRegexp", "HeaderRegexp", "QueryRegexp")

cdef struct CallSpec:
    const char* name
    uint8_t length
    uint8_t arguments_min
    uint8_t arguments_max

cdef CallSpec[12] specs

cdef int fill_specs() except -1:
    cdef const char** names = ["Host", "Path", "PathPrefix", "Method", "Header", "Query", "ClientIP",
                               "HostRegexp", "PathRegexp", "MethodRegexp", "HeaderRegexp", "QueryRegexp"]
    cdef int i
    for i in range(CALL_NAMES_COUNT):
        specs[i].name = names[i]
        specs[i].length = <uint8_t>strlen(names[i])
        specs[i].arguments_min = 2 if i in (CALL_HEADER_REGEXP, CALL_QUERY_REGEXP) else 1
        specs[i].arguments_max = 2 if i in (CALL_HEADER, CALL_QUERY, CALL_HEADER_REGEXP, CALL_QUERY_REGEXP) else 1
    return 0

fill_specs()


cdef int expression_fail(Expression* e, str message, uint32_t position, str remedy) except -1:
    raise RouteError(message, len(e.text[:position].decode("utf-8", "replace")), remedy)


cdef inline uint32_t skip_space(Expression* e) noexcept:
    cdef char c
    while e.cursor < e.length:
        c = e.text[e.cursor]
        if c != c' ' and c != c'\t' and c != c'\n' and c != c'\r':
            break
        e.cursor += 1
    return e.cursor


cdef inline char peek(Expression* e) noexcept:
    return e.text[e.cursor] if e.cursor < e.length else 0


cdef inline bint is_letter(char c) noexcept:
    return c'a' <= c <= c'z' or c'A' <= c <= c'Z'


cdef int fail_expected(Expression* e, str what, str remedy) except -1:
    found = "the end" if e.cursor >= e.length else repr(e.text[e.cursor:e.length].decode("utf-8", "replace")[0])
    return expression_fail(e, f"expected {what}, found {found}", e.cursor, remedy)


cdef int fail_call_name(Expression* e, uint32_t start) except -1:
    import difflib  # only an error needs it

    name = e.text[start:e.cursor].decode("utf-8", "replace")
    if name.lower() in ("and", "or", "not"):
        symbol = {"and": "&&", "or": "||", "not": "!"}[name.lower()]
        return expression_fail(e, f"{name!r} is no operator", start, f"write {symbol}")
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in CALL_NAMES], 1, 0.5)
    hint = [known for known in CALL_NAMES if known.lower() in near]
    remedy = f"did you mean {hint[0]}?" if hint else "use one of " + ", ".join(CALL_NAMES)
    return expression_fail(e, f"unknown matcher {name!r}", start, remedy)


cdef int new_node(Expression* e, uint8_t kind, uint32_t left, uint32_t right) except -1:
    if e.tree_count >= TREE_MAX:
        expression_fail(e, f"more than {TREE_MAX} operators and matchers", e.cursor, "split the route over several frontends")
    e.tree[e.tree_count].kind = kind
    e.tree[e.tree_count].left = left
    e.tree[e.tree_count].right = right
    e.tree_count += 1
    return <int>e.tree_count - 1


cdef int parse_string(Expression* e, Argument* out) except -1:
    cdef uint32_t opened = skip_space(e)
    cdef char quote = peek(e)
    cdef const char* end
    cdef uint32_t length
    if quote != c'"' and quote != c'`':
        fail_expected(e, "a string", "put the argument between \"double quotes\" or `backquotes`")
    e.cursor += 1
    out.position = e.cursor
    out.text = e.text + e.cursor
    end = <const char*>memchr(out.text, quote, e.length - e.cursor)
    if end == NULL:
        expression_fail(e, "string without an end", opened, f"close it with {chr(quote)}")
    length = <uint32_t>(end - out.text)
    if quote == c'"' and memchr(out.text, c'\\', length) != NULL:
        return parse_escaped(e, out, opened)
    out.length = length
    e.cursor += length + 1
    return 0


cdef int parse_escaped(Expression* e, Argument* out, uint32_t opened) except -1:
    """A "..." string with backslashes; the cursor is behind the opening quote. Its text goes to `scratch`."""
    cdef uint32_t start = e.scratch_used
    cdef char c
    while e.cursor < e.length:
        c = e.text[e.cursor]
        e.cursor += 1
        if c == c'"':
            out.text = e.scratch + start
            out.length = e.scratch_used - start
            return 0
        if c == c'\\':
            c = peek(e)
            if c != c'"' and c != c'\\':
                expression_fail(e, "unknown escape in a string", e.cursor - 1,
                                'only \\" and \\\\ are escapes between double quotes; write the string between '
                                "`backquotes` to keep backslashes")
            e.cursor += 1
        e.scratch[e.scratch_used] = c
        e.scratch_used += 1
    return expression_fail(e, "string without an end", opened, 'close it with "')


cdef int parse_call(Expression* e) except -1:
    cdef uint32_t start = e.cursor
    cdef uint32_t length
    cdef uint8_t name = 0
    cdef Call* call
    if not is_letter(peek(e)):
        fail_expected(e, "a matcher", 'write one such as Host("example.com")')
    while is_letter(peek(e)):
        e.cursor += 1
    length = e.cursor - start
    while name < CALL_NAMES_COUNT and (specs[name].length != length or memcmp(specs[name].name, e.text + start, length) != 0):
        name += 1
    if name == CALL_NAMES_COUNT:
        fail_call_name(e, start)
    if e.call_count >= CALLS_MAX:
        expression_fail(e, f"more than {CALLS_MAX} matchers", start, "split the route over several frontends")
    call = &e.calls[e.call_count]
    call.name = name
    call.position = start
    call.argument_count = 0
    skip_space(e)
    if peek(e) != c'(':
        fail_expected(e, "'('", f'write {CALL_NAMES[name]}("...")')
    while True:
        e.cursor += 1
        if call.argument_count == specs[name].arguments_max:
            expression_fail(e, f"{CALL_NAMES[name]} takes {argument_words(name)}", skip_space(e),
                            f'for alternatives write {CALL_NAMES[name]}("a") || {CALL_NAMES[name]}("b")'
                            if specs[name].arguments_max == 1 else f"write {signature(name)}")
        parse_string(e, &call.arguments[call.argument_count])
        call.argument_count += 1
        skip_space(e)
        if peek(e) != c',':
            break
    if peek(e) != c')':
        fail_expected(e, "')' or ','", f"close {CALL_NAMES[name]}( with )")
    e.cursor += 1
    if call.argument_count < specs[name].arguments_min:
        expression_fail(e, f"{CALL_NAMES[name]} takes {argument_words(name)}", start, f"write {signature(name)}")
    e.call_count += 1
    return new_node(e, TREE_CALL, e.call_count - 1, 0)


cdef str argument_words(uint8_t name):
    if specs[name].arguments_max == 1:
        return "one argument"
    return "two arguments" if specs[name].arguments_min == 2 else "one or two arguments"


cdef str signature(uint8_t name):
    value = "regexp" if CALL_NAMES[name].endswith("Regexp") else "value"
    return f'{CALL_NAMES[name]}("name", "{value}")'


cdef int parse_unary(Expression* e) except -1:
    cdef int operand
    skip_space(e)
    if peek(e) != c'!' and peek(e) != c'(':
        return parse_call(e)
    e.nesting += 1
    if e.nesting > NESTING_MAX:
        expression_fail(e, f"nested deeper than {NESTING_MAX} levels", e.cursor,
                        "remove needless parentheses, or split the route")
    if peek(e) == c'!':
        e.cursor += 1
        operand = new_node(e, TREE_NOT, <uint32_t>parse_unary(e), 0)
    else:
        start = e.cursor
        e.cursor += 1
        operand = parse_or(e)
        if peek(e) != c')':
            fail_expected(e, "')', '&&' or '||'", f"close the parenthesis opened at character {start + 1}")
        e.cursor += 1
    e.nesting -= 1
    return operand


cdef int parse_operator(Expression* e, char symbol) except -1:
    """1 and the cursor behind it if the doubled `symbol` is next, else 0."""
    skip_space(e)
    if peek(e) != symbol:
        return 0
    if e.cursor + 1 >= e.length or e.text[e.cursor + 1] != symbol:
        expression_fail(e, f"single {chr(symbol)!r}", e.cursor, f"write {chr(symbol) * 2}")
    e.cursor += 2
    return 1


cdef int parse_and(Expression* e) except -1:
    cdef int left = parse_unary(e)
    while parse_operator(e, c'&'):
        left = new_node(e, TREE_AND, <uint32_t>left, <uint32_t>parse_unary(e))
    return left


cdef int parse_or(Expression* e) except -1:
    cdef int left = parse_and(e)
    while parse_operator(e, c'|'):
        left = new_node(e, TREE_OR, <uint32_t>left, <uint32_t>parse_and(e))
    return left


cdef int expression_parse(Expression* e, const char* text, uint32_t length) except -1:
    e.text = text
    e.length = length
    e.cursor = e.nesting = e.call_count = e.tree_count = e.scratch_used = 0
    if length > EXPRESSION_BYTES_MAX:
        expression_fail(e, f"expression of {length} bytes, more than {EXPRESSION_BYTES_MAX}", 0,
                        "split the route over several frontends")
    if skip_space(e) == length:
        expression_fail(e, "empty expression", 0, 'to match every request write PathPrefix("/")')
    e.root = <uint32_t>parse_or(e)
    if skip_space(e) != length:
        fail_expected(e, "'&&', '||' or the end", "join matchers with && or ||")
    return 0


cdef object to_objects(Expression* e, uint32_t index):
    from bascule.routing.ast import And, Not, Or, Predicate  # imports dataclasses: 20 ms of CPU that compiling does not need

    cdef TreeNode* node = &e.tree[index]
    cdef Call* call
    if node.kind == TREE_CALL:
        call = &e.calls[node.left]
        args = tuple(call.arguments[i].text[:call.arguments[i].length].decode() for i in range(call.argument_count))
        return Predicate(CALL_NAMES[call.name], args, len(e.text[:call.position].decode()))
    if node.kind == TREE_NOT:
        return Not(to_objects(e, node.left))
    return (And if node.kind == TREE_AND else Or)(to_objects(e, node.left), to_objects(e, node.right))


def parse(str expression not None):
    """The syntax tree of an expression (bascule.routing.ast); RouteError for bad syntax. Arguments are not looked into."""
    cdef Py_ssize_t length = 0
    cdef const char* text = PyUnicode_AsUTF8AndSize(expression, &length)
    cdef Expression* e = <Expression*>malloc(sizeof(Expression))
    if e == NULL:
        raise MemoryError
    try:
        expression_parse(e, text, <uint32_t>min(length, 0xFFFFFFFF))
        return to_objects(e, e.root)
    finally:
        free(e)
