"""A parsed route expression: a small array of calls and a tree over them.

Owner of an Expression: the caller, who reuses it for one expression after another. Writer: expression_parse alone. Strings point
into the caller's text or into `scratch`, so an Expression is dead as soon as its text is.

    or    := and { '||' and }
    and   := unary { '&&' unary }
    unary := '!' unary | '(' or ')' | call
    call  := NAME '(' string [ ',' string ] ')'
    string := '"' characters, with \\" and \\\\ as escapes '"'  |  '`' characters other than ` '`'
"""

from libc.stdint cimport uint8_t, uint32_t


cdef enum:
    EXPRESSION_BYTES_MAX = 8192
    CALLS_MAX = 64
    TREE_MAX = 256                # nodes: calls, operators
    NESTING_MAX = 32              # parentheses and negations

cdef enum CallName:               # index into CALL_NAMES of expression.pyx
    CALL_HOST = 0
    CALL_PATH = 1
    CALL_PATH_PREFIX = 2
    CALL_METHOD = 3
    CALL_HEADER = 4
    CALL_QUERY = 5
    CALL_CLIENT_IP = 6
    CALL_HOST_REGEXP = 7
    CALL_PATH_REGEXP = 8
    CALL_METHOD_REGEXP = 9
    CALL_HEADER_REGEXP = 10
    CALL_QUERY_REGEXP = 11
    CALL_NAMES_COUNT = 12

cdef struct Argument:
    const char* text
    uint32_t length
    uint32_t position             # byte of the expression where its text starts

cdef struct Call:
    uint8_t name                  # CallName
    uint8_t argument_count        # 1 or 2
    uint32_t position
    Argument arguments[2]

cdef enum TreeKind:
    TREE_CALL = 0                 # left = index of the call
    TREE_AND = 1
    TREE_OR = 2
    TREE_NOT = 3                  # left = operand

cdef struct TreeNode:
    uint8_t kind
    uint32_t left
    uint32_t right

cdef struct Expression:
    const char* text
    uint32_t length
    uint32_t cursor
    uint32_t nesting
    uint32_t call_count
    uint32_t tree_count
    uint32_t root
    uint32_t scratch_used
    Call calls[64]
    TreeNode tree[256]
    char scratch[8192]

cdef int expression_parse(Expression* e, const char* text, uint32_t length) except -1     # RouteError
cdef int expression_fail(Expression* e, str message, uint32_t position, str remedy) except -1  # raises; position in bytes
