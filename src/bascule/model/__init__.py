"""The configuration's vocabulary: immutable structs, bounds, quantities and problems."""
