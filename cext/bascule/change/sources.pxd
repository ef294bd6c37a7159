"""What a SnapshotCompiler knows besides its images, as bytes: so that another one can go on from them without compiling anything.

    0            72
    +------------+---------+-------+------+-----------+
    | KeptHeader | sources | texts | runs | frontends |    each part starts 8-byte aligned
    +------------+---------+-------+------+-----------+

Written and read by one and the same build of the program (change/images_file.py sees to that), so it has no version of its own;
the sizes are checked so that damage is an error and no crash.
"""

from libc.stdint cimport uint32_t

from bascule.change.state cimport State
from bascule.routing.ranking cimport Ranking


cdef bytes pack_sources(State state, Ranking ranking, uint32_t base_bound)

# Fills a State that has nothing, and an empty Ranking; the bound of the base's frontends. ValueError when sizes do not fit.
cdef uint32_t load_sources(object packed, State state, Ranking ranking) except? 0xFFFFFFFF
