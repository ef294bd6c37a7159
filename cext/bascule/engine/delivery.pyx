"""See delivery.pxd."""

from libc.errno cimport EAGAIN, ECONNRESET, EINTR, errno
from libc.stdint cimport uint64_t

from bascule.engine.handover cimport (
    DESCRIPTORS_MAX,
    HANDOVER_VERSION,
    INLINE_BYTES_MAX,
    NAME_MAX,
    PACKET_PARCEL,
    PARCEL_MAX,
    PAYLOAD_FILE,
    PENDING_BYTES_MAX,
    RECORD_FLAGS,
    RECORD_IDLE,
    RECORD_TUNNEL,
)
from bascule.engine.memory cimport BUF_BYTES
from bascule.engine.system cimport (
    CMSG_DATA,
    CMSG_FIRSTHDR,
    CMSG_LEN,
    CMSG_NXTHDR,
    F_GETFL,
    MSG_CMSG_CLOEXEC,
    MSG_DONTWAIT,
    MSG_TRUNC,
    O_NONBLOCK,
    SCM_RIGHTS,
    SOCK_STREAM,
    SOL_SOCKET,
    SO_TYPE,
    cmsghdr,
    fcntl,
    getsockopt,
    iovec,
    memcmp,
    memcpy,
    memset,
    msghdr,
    pread,
    recvmsg,
    socklen_t,
)
from bascule.engine.types cimport LOG_TARGET_MAX, SCRATCH_BYTES
from bascule.shared.snapshot cimport HOLDINGS_MAX


cdef void keep_descriptors(Delivery* d, msghdr* message) noexcept nogil:
    cdef cmsghdr* control = CMSG_FIRSTHDR(message)
    cdef uint32_t count
    while control != NULL:
        if control.cmsg_level == SOL_SOCKET and control.cmsg_type == SCM_RIGHTS:
            count = <uint32_t>((control.cmsg_len - CMSG_LEN(0)) // sizeof(int))
            if d.descriptor_count + count <= DESCRIPTORS_MAX:
                memcpy(d.descriptors + d.descriptor_count, CMSG_DATA(control), count * sizeof(int))
                d.descriptor_count += count
        control = CMSG_NXTHDR(message, control)


cdef ssize_t delivery_receive(Engine* engine, int fd, Delivery* d) noexcept nogil:
    cdef uint64_t control[160]    # CMSG_SPACE of DESCRIPTORS_MAX descriptors, and aligned
    cdef msghdr message
    cdef iovec part
    cdef ssize_t got
    memset(&message, 0, sizeof(message))
    part.iov_base = engine.scratch
    part.iov_len = SCRATCH_BYTES
    message.msg_iov = &part
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = sizeof(control)
    got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT)
    if got < 0:
        # After a reset the kernel still hands out what was sent before it.
        return -1 if errno == EAGAIN or errno == EINTR or errno == ECONNRESET else 0
    # Fewer descriptors than were sent (we are out of them) do not matter here: records without theirs are refused.
    keep_descriptors(d, &message)
    return -2 if message.msg_flags & MSG_TRUNC else got


# ---- checks ------------------------------------------------------------------------------------------------------------
cdef bint is_parcel(Delivery* d, const char* data, ssize_t length) noexcept nogil:
    cdef uint64_t records_end
    cdef const ParcelHeader* header = <const ParcelHeader*>(data + sizeof(Preamble))
    if length < <ssize_t>(sizeof(Preamble) + sizeof(ParcelHeader)):
        return False
    d.preamble = <const Preamble*>data
    if memcmp(d.preamble.magic, b"BSCH", 4) != 0 or d.preamble.version != HANDOVER_VERSION \
            or d.preamble.kind != PACKET_PARCEL or header.count == 0 or header.count > PARCEL_MAX:
        return False
    records_end = sizeof(Preamble) + sizeof(ParcelHeader) + header.count * sizeof(Record)
    if <uint64_t>length < records_end:
        return False
    d.header = header
    d.records = <const Record*>(header + 1)
    d.payload = data + records_end
    d.file = -1
    if header.payload_place == PAYLOAD_FILE:
        if d.descriptor_count == 0 or <uint64_t>length != records_end:
            return False
        d.file = d.descriptors[0]
        return True
    return header.payload_place == 0 and header.payload_bytes <= INLINE_BYTES_MAX \
        and <uint64_t>length == records_end + header.payload_bytes


cdef bint is_record(const Engine* engine, const Delivery* d, const Record* r) noexcept nogil:
    cdef uint64_t end = <uint64_t>r.payload_at + r.listener_length + r.input_length
    cdef uint32_t i
    if r.flags & ~<uint32_t>RECORD_FLAGS or r.listener_length == 0 or r.listener_length > NAME_MAX or r.input_length > BUF_BYTES:
        return False
    if r.kind == RECORD_TUNNEL:
        if r.log_length > LOG_TARGET_MAX or r.holding_count > HOLDINGS_MAX or r.input_length \
                or r.request_pending > PENDING_BYTES_MAX or r.response_pending > PENDING_BYTES_MAX \
                or r.started_us > engine.now_us:
            return False
        end += <uint64_t>r.log_length + r.request_pending + r.response_pending
        for i in range(3):
            if r.name_lengths[i] > NAME_MAX:
                return False
            end += r.name_lengths[i]
    elif r.kind != RECORD_IDLE:
        return False
    return end <= d.header.payload_bytes


cdef bint is_stream(int fd) noexcept nogil:
    """A stream socket that never blocks: anything else would stop the worker."""
    cdef int kind = 0
    cdef socklen_t size = sizeof(kind)
    return getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &size) == 0 and kind == SOCK_STREAM \
        and (fcntl(fd, F_GETFL) & O_NONBLOCK) != 0


# ---- the payload -------------------------------------------------------------------------------------------------------
cdef bint read_payload(const Delivery* d, uint32_t at, char* to, uint32_t length) noexcept nogil:
    cdef ssize_t got
    if d.file < 0:
        memcpy(to, d.payload + at, length)
        return True
    while length:
        got = pread(d.file, to, length, at)
        if got <= 0:
            if got < 0 and errno == EINTR:
                continue
            return False
        to += got
        at += <uint32_t>got
        length -= <uint32_t>got
    return True
