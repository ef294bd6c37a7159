"""The system calls of the data path, as glibc declares them. Declarations only."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "sys/types.h" nogil:
    ctypedef unsigned int socklen_t

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void* ptr
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int count_max, int timeout_ms)
    enum:
        EPOLL_CLOEXEC
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        EPOLLIN
        EPOLLOUT
        EPOLLRDHUP
        EPOLLERR
        EPOLLHUP
        EPOLLET
        EPOLLEXCLUSIVE

cdef extern from "sys/socket.h" nogil:
    cdef struct sockaddr:
        uint16_t sa_family
    cdef struct sockaddr_storage:
        uint16_t ss_family
    cdef struct msghdr:
        void* msg_name
        socklen_t msg_namelen
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    int socket(int domain, int type, int protocol)
    int connect(int fd, const sockaddr* address, socklen_t length)
    int accept4(int fd, sockaddr* address, socklen_t* length, int flags)
    int shutdown(int fd, int how)
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    ssize_t send(int fd, const void* buffer, size_t length, int flags)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    ssize_t recvmsg(int fd, msghdr* message, int flags)
    cdef struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    cmsghdr* CMSG_NXTHDR(msghdr* message, cmsghdr* control)
    unsigned char* CMSG_DATA(cmsghdr* control)
    size_t CMSG_LEN(size_t length)
    size_t CMSG_SPACE(size_t length)
    int getsockopt(int fd, int level, int option, void* value, socklen_t* length)
    int setsockopt(int fd, int level, int option, const void* value, socklen_t length)
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        SOCK_STREAM
        SOCK_NONBLOCK
        SOCK_CLOEXEC
        SOL_SOCKET
        SO_ERROR
        SO_TYPE
        SO_LINGER
        MSG_NOSIGNAL
        MSG_DONTWAIT
        MSG_MORE
        MSG_TRUNC
        MSG_CMSG_CLOEXEC
        SCM_RIGHTS
        SHUT_WR

cdef extern from "sys/uio.h" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len

cdef extern from "netinet/in.h" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        uint16_t sin_family
        uint16_t sin_port
        in_addr sin_addr
    cdef struct in6_addr:
        uint8_t s6_addr[16]
    cdef struct sockaddr_in6:
        uint16_t sin6_family
        uint16_t sin6_port
        in6_addr sin6_addr
    enum:
        IPPROTO_TCP

cdef extern from "netinet/tcp.h" nogil:
    enum:
        TCP_NODELAY

cdef extern from "arpa/inet.h" nogil:
    const char* inet_ntop(int family, const void* source, char* out, socklen_t size)

cdef extern from "sys/timerfd.h" nogil:
    int timerfd_create(int clock, int flags)
    int timerfd_settime(int fd, int flags, const itimerspec* new, itimerspec* old)
    enum:
        TFD_NONBLOCK
        TFD_CLOEXEC
        TFD_TIMER_ABSTIME

cdef extern from "time.h" nogil:
    cdef struct timespec:
        long tv_sec
        long tv_nsec
    cdef struct itimerspec:
        timespec it_interval
        timespec it_value
    cdef struct tm:
        int tm_sec
    int clock_gettime(int clock, timespec* now)
    tm* gmtime_r(const long* seconds, tm* out)
    size_t strftime(char* out, size_t size, const char* format, const tm* fields)
    enum:
        CLOCK_MONOTONIC
        CLOCK_REALTIME

cdef extern from "sys/mman.h" nogil:
    void* mmap(void* address, size_t length, int protection, int flags, int fd, long offset)
    int munmap(void* address, size_t length)
    enum:
        PROT_READ
        PROT_WRITE
        MAP_SHARED
        MAP_PRIVATE
        MAP_ANONYMOUS
        MAP_POPULATE
    void* MAP_FAILED
    int memfd_create(const char* name, unsigned int flags)
    enum:
        MFD_CLOEXEC

cdef extern from "sys/random.h" nogil:
    ssize_t getrandom(void* buffer, size_t length, unsigned int flags)

cdef extern from "fcntl.h" nogil:
    int fcntl(int fd, int command, ...)
    enum:
        F_DUPFD_CLOEXEC
        F_GETFL
        F_SETFL
        O_NONBLOCK

cdef extern from "unistd.h" nogil:
    int close(int fd)
    ssize_t read(int fd, void* buffer, size_t count)
    ssize_t write(int fd, const void* buffer, size_t count)
    ssize_t pread(int fd, void* buffer, size_t count, long offset)

cdef extern from "string.h" nogil:
    void* memcpy(void* to, const void* source, size_t n)
    void* memmove(void* to, const void* source, size_t n)
    void* memset(void* s, int c, size_t n)
    int memcmp(const void* a, const void* b, size_t n)
    void* memchr(const void* s, int c, size_t n)

cdef extern from * nogil:
    """
    #define bascule_likely(x) __builtin_expect(!!(x), 1)
    #define bascule_unlikely(x) __builtin_expect(!!(x), 0)
    #if BASCULE_DEBUG
    #include <stdio.h>
    #include <stdlib.h>
    #define bascule_assert(x) do { if (!(x)) { \\
        fprintf(stderr, "bascule: assertion failed: %s (%s:%d)\\n", #x, __FILE__, __LINE__); abort(); } } while (0)
    #else
    #define bascule_assert(x) ((void)0)
    #endif
    """
    void prefetch "__builtin_prefetch"(const void* address)
    bint likely "bascule_likely"(bint x)
    bint unlikely "bascule_unlikely"(bint x)
    void debug_assert "bascule_assert"(bint x)
    enum:
        BASCULE_DEBUG
