//! Row bytes of the binlog to values: our own, bounds-checked, for every MySQL column type. Pure.
