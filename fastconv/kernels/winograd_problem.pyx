"""The phases of a Winograd convolution: tiles, tables of sources and taps, as its macro-kernels read them."""

import itertools

import numpy as np
cimport numpy as cnp

from fastconv.kernels.arrays cimport hold

cnp.import_array()


cdef int place_phase(Phase *f, list keep, axes, kernel, points) except -1:
    """What a tuple of AxisSources means for tiles of so many points an axis; `keep` holds its tables."""
    cdef int i, missing = 3 - len(axes)
    cdef Axis *a
    f.tiles = f.points = 1
    for i in range(3):
        a = &f.axis[i]
        a.step, a.dilation, a.source_step, a.outputs, a.points, f.taps[i] = 1, 1, 1, 1, 1, 1
        tiles = np.array([[0, 0, 1, 0]], np.intp)
        if i >= missing:
            axis = axes[i - missing]
            like = axis.components()[0]
            a.dilation, f.taps[i], a.points = abs(like.tap_step), len(like.taps), points[i - missing]
            a.step, a.outputs = axis.step * a.dilation, a.points + 1 - f.taps[i]
            a.source_step = axis.stride * a.dilation
            tiles = tiles_of(like, a.outputs)
        a.tile, a.tiles = <const TileAxis *> hold(keep, tiles), len(tiles)
        f.tiles *= a.tiles
        f.points *= a.points
    place_components(f, keep, axes, kernel)
    return 0


cdef int place_components(Phase *f, list keep, axes, kernel) except -1:
    cdef int i, missing = 3 - len(axes)
    cdef Component *component
    components = list(itertools.product(*(axis.components() for axis in axes)))
    component = <Component *> hold(keep, np.zeros(len(components) * sizeof(Component), np.uint8))
    f.components, f.component = len(components), component
    for along in components:
        for i in range(3):
            table = np.zeros(1, np.intp)
            if i >= missing:
                axis = along[i - missing]
                table = input_table(axis, axis.count + (f.axis[i].outputs + 2 * POINTS) * f.axis[i].dilation)
                component.shorter[i] = len(axis.taps) < f.taps[i]
            component.table[i] = <const Py_ssize_t *> hold(keep, table)
        taps = tap_offsets(along, [f.taps[i] for i in range(missing, 3)], kernel)
        component.weight_taps = <const Py_ssize_t *> hold(keep, taps)
        component += 1
    return 0


def tiles_of(axis, outputs):
    """A TileAxis a row: with dilation d those of the positions i, i + d, ... for each i < d, grid after grid."""
    dilation, rows = abs(axis.tap_step), []
    for first in range(min(dilation, axis.count)):
        positions = range(first, axis.count, dilation)
        tiles = range(0, len(positions), outputs)
        rows += [
            (positions[i], axis.start + positions[i] * axis.step, min(outputs, len(positions) - i), len(tiles) - 1 - k)
            for k, i in enumerate(tiles)
        ]
    return np.array(rows, np.intp)


def tap_offsets(axes, taps, kernel):
    """Elements from a kernel's start of a component's taps, in the order of the input; -1 for those that it lacks."""
    offsets = np.zeros(1, np.intp)
    for axis, most, length in zip(axes, taps, kernel):
        along = np.full(most, -1, np.intp)
        along[:len(axis.taps)] = axis.taps if axis.tap_step > 0 else axis.taps[::-1]
        lacks = (offsets[:, None] < 0) | (along < 0)
        offsets = np.where(lacks, -1, offsets[:, None] * length + along).ravel()
    return offsets


def input_table(axis, length):
    """Sources of consecutive inputs of an axis from the first tile's first on, padded to `length`."""
    reach = (len(axis.taps) - 1) * axis.tap_step
    first = axis.first + min(0, reach)
    table = np.full(length, -1, np.intp)
    known = axis.table[first:first + axis.count + abs(reach)]
    table[:len(known)] = known
    return table
