"""PCRE2 behind a table of function pointers (contract: pcre.pxd; API: pcre2api(3) of 10.30 and later)."""

from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset


cdef extern from "<dlfcn.h>" nogil:
    void* dlopen(const char* name, int flags)
    void* dlsym(void* library, const char* name)
    int RTLD_NOW
    int RTLD_LOCAL

cdef enum:                        # values of pcre2.h, fixed by the library's binary interface (soname libpcre2-8.so.0)
    PCRE2_CASELESS = 0x00000008
    PCRE2_DOLLAR_ENDONLY = 0x00000010
    PCRE2_DOTALL = 0x00000020
    PCRE2_NEVER_UCP = 0x00000800
    PCRE2_NEVER_UTF = 0x00001000
    PCRE2_NO_AUTO_CAPTURE = 0x00002000
    PCRE2_NEVER_BACKSLASH_C = 0x00100000
    PCRE2_JIT_COMPLETE = 0x00000001
    PCRE2_ERROR_NOMATCH = -1
    PCRE2_INFO_SIZE = 22
    PCRE2_CONFIG_JIT = 1

cdef struct PcreCode:
    uint8_t opaque

cdef struct PcreScratch:
    void* match_data
    void* match_context
    void* jit_stack

ctypedef void* (*CompileFn)(const char*, size_t, uint32_t, int*, size_t*, void*) noexcept nogil
ctypedef void (*FreeFn)(void*) noexcept nogil
ctypedef void* (*CreateFn)(void*) noexcept nogil
ctypedef void* (*MatchDataFn)(uint32_t, void*) noexcept nogil
ctypedef int (*LimitFn)(void*, uint32_t) noexcept nogil
ctypedef int (*MatchFn)(const void*, const char*, size_t, size_t, uint32_t, void*, void*) noexcept nogil
ctypedef int (*JitCompileFn)(void*, uint32_t) noexcept nogil
ctypedef void* (*JitStackFn)(size_t, size_t, void*) noexcept nogil
ctypedef void (*JitAssignFn)(void*, void*, void*) noexcept nogil
ctypedef int (*InfoFn)(const void*, uint32_t, void*) noexcept nogil
ctypedef int (*MessageFn)(int, char*, size_t) noexcept nogil
ctypedef int (*ConfigFn)(uint32_t, void*) noexcept nogil

cdef struct Functions:
    CompileFn compile
    FreeFn code_free
    MatchDataFn match_data_create
    FreeFn match_data_free
    CreateFn match_context_create
    FreeFn match_context_free
    LimitFn set_match_limit
    LimitFn set_depth_limit
    LimitFn set_heap_limit
    MatchFn match
    JitCompileFn jit_compile
    JitStackFn jit_stack_create
    FreeFn jit_stack_free
    JitAssignFn jit_stack_assign
    InfoFn pattern_info
    MessageFn get_error_message
    ConfigFn config

cdef Functions functions          # written once, by resolve
cdef int resolved = 0             # 0 = not tried, 1 = usable, -1 = not to be had
cdef uint32_t jit_usable = 0


cdef int resolve() noexcept nogil:
    cdef void* library = dlopen("libpcre2-8.so.0", RTLD_NOW | RTLD_LOCAL)
    cdef const char** names = [
        "pcre2_compile_8", "pcre2_code_free_8", "pcre2_match_data_create_8", "pcre2_match_data_free_8",
        "pcre2_match_context_create_8", "pcre2_match_context_free_8", "pcre2_set_match_limit_8", "pcre2_set_depth_limit_8",
        "pcre2_set_heap_limit_8", "pcre2_match_8", "pcre2_jit_compile_8", "pcre2_jit_stack_create_8", "pcre2_jit_stack_free_8",
        "pcre2_jit_stack_assign_8", "pcre2_pattern_info_8", "pcre2_get_error_message_8", "pcre2_config_8",
    ]
    cdef void** table = <void**>&functions
    cdef size_t i
    if library == NULL:
        return -1
    for i in range(sizeof(Functions) // sizeof(void*)):
        table[i] = dlsym(library, names[i])
        if table[i] == NULL:
            return -1
    if functions.config(PCRE2_CONFIG_JIT, &jit_usable) < 0:
        jit_usable = 0
    return 1


cdef int pcre_available() noexcept nogil:
    global resolved
    if resolved == 0:
        resolved = resolve()
    return resolved == 1


cdef uint32_t options(bint caseless) noexcept nogil:
    cdef uint32_t bits = (PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE
                          | PCRE2_DOLLAR_ENDONLY | PCRE2_DOTALL)
    return bits | PCRE2_CASELESS if caseless else bits


cdef PcreCode* pcre_compile(const char* pattern, uint32_t length, bint caseless, bint jit) noexcept nogil:
    cdef int error = 0
    cdef size_t offset = 0
    cdef size_t size = 0
    cdef void* code
    if not pcre_available() or length > PATTERN_BYTES_MAX:
        return NULL
    code = functions.compile(pattern, length, options(caseless), &error, &offset, NULL)
    if code == NULL:
        return NULL
    if functions.pattern_info(code, PCRE2_INFO_SIZE, &size) != 0 or size > COMPILED_BYTES_MAX:
        functions.code_free(code)
        return NULL
    if jit and jit_usable:        # where the system forbids executable memory this fails, and the interpreter is used
        functions.jit_compile(code, PCRE2_JIT_COMPLETE)
    return <PcreCode*>code


cdef void pcre_free(PcreCode* code) noexcept nogil:
    if code != NULL:
        functions.code_free(code)


cdef PcreScratch* pcre_scratch_new() noexcept nogil:
    cdef PcreScratch* scratch
    if not pcre_available():
        return NULL
    scratch = <PcreScratch*>malloc(sizeof(PcreScratch))
    if scratch == NULL:
        return NULL
    memset(scratch, 0, sizeof(PcreScratch))
    scratch.match_data = functions.match_data_create(1, NULL)
    scratch.match_context = functions.match_context_create(NULL)
    if scratch.match_data == NULL or scratch.match_context == NULL:
        pcre_scratch_free(scratch)
        return NULL
    functions.set_match_limit(scratch.match_context, MATCH_LIMIT)
    functions.set_depth_limit(scratch.match_context, DEPTH_LIMIT)
    functions.set_heap_limit(scratch.match_context, HEAP_LIMIT_KIB)
    if jit_usable:
        scratch.jit_stack = functions.jit_stack_create(JIT_STACK_BYTES, JIT_STACK_BYTES, NULL)
        if scratch.jit_stack != NULL:
            functions.jit_stack_assign(scratch.match_context, NULL, scratch.jit_stack)
    return scratch


cdef void pcre_scratch_free(PcreScratch* scratch) noexcept nogil:
    if scratch == NULL:
        return
    if scratch.match_data != NULL:
        functions.match_data_free(scratch.match_data)
    if scratch.match_context != NULL:
        functions.match_context_free(scratch.match_context)
    if scratch.jit_stack != NULL:
        functions.jit_stack_free(scratch.jit_stack)
    free(scratch)


cdef int pcre_matches(const PcreCode* code, PcreScratch* scratch, const char* text, uint32_t length) noexcept nogil:
    cdef int result
    if length > SUBJECT_BYTES_MAX:
        return -1
    if length == 0:
        text = ""                 # an absent text may have no address
    result = functions.match(code, text, length, 0, 0, scratch.match_data, scratch.match_context)
    if result >= 0:
        return 1
    return 0 if result == PCRE2_ERROR_NOMATCH else -1


def check(bytes pattern not None, bint caseless=False):
    """None if the regexp may be used, else (message, offset in bytes, remedy)."""
    cdef int error = 0
    cdef size_t offset = 0
    cdef size_t size = 0
    cdef void* code
    cdef char[256] message
    if not pcre_available():
        return ("regular expressions need the PCRE2 library, which is not on this machine", 0,
                "install it (apt install libpcre2-8-0), or use a matcher without Regexp")
    if len(pattern) > PATTERN_BYTES_MAX:
        return (f"regexp of {len(pattern)} bytes, more than {PATTERN_BYTES_MAX}", 0, "shorten it, or split the route")
    from bascule.routing.safety import unsafe_construct  # imports dataclasses, and so inspect: 20 ms of CPU

    unsafe = unsafe_construct(pattern)
    if unsafe is not None:
        return unsafe
    code = functions.compile(<const char*>pattern, len(pattern), options(caseless), &error, &offset, NULL)
    if code == NULL:
        functions.get_error_message(error, message, sizeof(message))
        return (f"bad regexp: {(<bytes>message).decode('ascii', 'replace')}", <object>offset,
                "see pcre2pattern(3) for the syntax")
    functions.pattern_info(code, PCRE2_INFO_SIZE, &size)
    functions.code_free(code)
    if size > COMPILED_BYTES_MAX:
        return (f"regexp compiles to {size} bytes, more than {COMPILED_BYTES_MAX}", 0, "use smaller repeat counts")
    return None


def search(bytes pattern not None, bytes text not None, bint caseless=False):
    """Whether the regexp is found in `text`; None if a limit was hit. ValueError if it does not compile."""
    cdef PcreCode* code = pcre_compile(pattern, <uint32_t>len(pattern), caseless, True)
    cdef PcreScratch* scratch
    if code == NULL:
        raise ValueError(f"regexp does not compile: {pattern!r}")
    scratch = pcre_scratch_new()
    if scratch == NULL:
        pcre_free(code)
        raise MemoryError
    result = pcre_matches(code, scratch, text, <uint32_t>len(text))
    pcre_scratch_free(scratch)
    pcre_free(code)
    return None if result < 0 else result == 1
