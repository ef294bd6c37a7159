"""A page of etcd's answer to a range request, taken apart. Docstrings: src/bascule/store/etcd_page.pyi.

The few fields of a few messages (etcd's rpc.proto and kv.proto) in the protocol buffers' wire format
(https://protobuf.dev/programming-guides/encoding/): a key of field number and wire type, then a varint (0), eight bytes (1), a length
and so many bytes (2), or four bytes (5). Unknown fields are passed over, as every reader of the format does.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp

from bascule.store.interface import Entry


cdef enum:
    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    FIXED32 = 5

cdef struct Reader:
    const uint8_t* at
    const uint8_t* end
    bint damaged

cdef struct Field:
    uint64_t number
    uint64_t value                # VARINT
    const uint8_t* data           # BYTES
    uint64_t size


cdef uint64_t varint(Reader* reader) noexcept nogil:
    cdef uint64_t value = 0
    cdef int shift = 0
    cdef uint8_t byte
    while reader.at < reader.end and shift < 64:
        byte = reader.at[0]
        reader.at += 1
        value |= <uint64_t>(byte & 0x7F) << shift
        if byte < 0x80:
            return value
        shift += 7
    reader.damaged = True
    return 0


cdef bint next_field(Reader* reader, Field* field) noexcept nogil:
    """False at the end, and where the bytes are no message."""
    cdef uint64_t key, skipped = 0
    if reader.at >= reader.end or reader.damaged:
        return False
    key = varint(reader)
    field.number = key >> 3
    field.value = field.size = 0
    field.data = NULL
    if key & 7 == VARINT:
        field.value = varint(reader)
    elif key & 7 == BYTES:
        skipped = field.size = varint(reader)
        field.data = reader.at
    elif key & 7 == FIXED64:
        skipped = 8
    elif key & 7 == FIXED32:
        skipped = 4
    else:
        reader.damaged = True
    if reader.damaged or skipped > <uint64_t>(reader.end - reader.at):
        reader.damaged = True
        return False
    reader.at += skipped
    return True


cdef int read_header(const Field* message, Page page) except -1:
    cdef Reader reader
    cdef Field field
    reader.at, reader.end, reader.damaged = message.data, message.data + message.size, False
    while next_field(&reader, &field):
        if field.number == 1:
            page.cluster_id = field.value
        elif field.number == 3:
            page.revision = <int64_t>field.value
    if reader.damaged:
        raise ValueError("etcd's answer is damaged")
    return 0


cdef class Page:
    cdef readonly uint64_t cluster_id
    cdef readonly int64_t revision
    cdef readonly bint more
    cdef readonly bytes last_key  # b"" when there is no key
    cdef readonly int64_t count   # keys in this page
    cdef readonly int64_t total   # keys in the range that was asked for
    cdef bytes data

    def __init__(self, bytes data not None):
        cdef Reader reader
        cdef Field field
        cdef const uint8_t* last = NULL
        cdef uint64_t last_size = 0
        self.data = data
        self.last_key = b""
        reader.at = <const uint8_t*>PyBytes_AS_STRING(data)
        reader.end, reader.damaged = reader.at + PyBytes_GET_SIZE(data), False
        while next_field(&reader, &field):
            if field.number == 1 and field.data != NULL:
                read_header(&field, self)
            elif field.number == 2 and field.data != NULL:
                last, last_size = field.data, field.size
                self.count += 1
            elif field.number == 3:
                self.more = field.value != 0
            elif field.number == 4:
                self.total = <int64_t>field.value
        if reader.damaged:
            raise ValueError("etcd's answer is damaged")
        if last != NULL:
            reader.at, reader.end = last, last + last_size
            while next_field(&reader, &field):
                if field.number == 1 and field.data != NULL:
                    self.last_key = PyBytes_FromStringAndSize(<const char*>field.data, field.size)

    def __len__(self):
        return len(self.data)

    def take(self, dict entries not None, int64_t first, int64_t count, *, bytes start not None=b"", bytes mark not None=b"",
             name_of=None):
        cdef Reader reader, inside
        cdef Field message, field
        cdef const uint8_t* key
        cdef const uint8_t* value
        cdef uint64_t key_size, value_size
        cdef uint64_t created, modified, lease
        cdef int64_t number = 0
        cdef uint64_t start_size = PyBytes_GET_SIZE(start), mark_size = PyBytes_GET_SIZE(mark)
        reader.at = <const uint8_t*>PyBytes_AS_STRING(self.data)
        reader.end, reader.damaged = reader.at + PyBytes_GET_SIZE(self.data), False
        while next_field(&reader, &message):
            if message.number != 2 or message.data == NULL:
                continue
            number += 1
            if number <= first:
                continue
            if number > first + count:
                break
            key = value = NULL
            key_size = value_size = created = modified = lease = 0
            inside.at, inside.end, inside.damaged = message.data, message.data + message.size, False
            while next_field(&inside, &field):
                if field.number == 1 and field.data != NULL:
                    key, key_size = field.data, field.size
                elif field.number == 2:
                    created = field.value
                elif field.number == 3:
                    modified = field.value
                elif field.number == 5 and field.data != NULL:
                    value, value_size = field.data, field.size
                elif field.number == 6:
                    lease = field.value
            if inside.damaged:
                raise ValueError("etcd's answer is damaged")
            if name_of is not None:
                name = name_of(PyBytes_FromStringAndSize(<const char*>key, key_size))
                if name is not None:
                    entries[name] = Entry(name, PyBytes_FromStringAndSize(<const char*>value, value_size), <int64_t>created,
                                          <int64_t>modified, <int64_t>lease)
                continue
            if key_size < start_size or memcmp(key, PyBytes_AS_STRING(start), start_size) != 0:
                continue
            if mark_size and key_size == mark_size and memcmp(key, PyBytes_AS_STRING(mark), mark_size) == 0:
                continue
            name = PyUnicode_DecodeUTF8(<const char*>key + start_size, key_size - start_size, "backslashreplace")
            entries[name] = Entry(name, PyBytes_FromStringAndSize(<const char*>value, value_size), <int64_t>created,
                                  <int64_t>modified, <int64_t>lease)
