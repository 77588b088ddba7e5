"""The values that sessions have when their state is measured: code that makes them, and code that changes them."""

from __future__ import annotations

SMALL = """
count, total, ratio, complex_number, huge = 3, 10**12, 0.25, 1 + 2j, 2**200
flag, nothing, name, data, limits = True, None, 'kernelgate', b'bytes', range(10)
point, words, ages, colours, frozen = (1.5, 2.5), ['a', 'b', 'c'], {'ann': 31}, {'red', 'blue'}, frozenset((1, 2))
table, matrix, nested = [{'id': 1, 'ok': True}], [[1, 0], [0, 1]], {'a': {'b': ['c']}}
text, empty = 'some text ' * 20, []

def scale(values, factor=2):
    return [value * factor + count for value in values]
"""
CHANGE_SMALL = "count += 1"

NUMBERS = "numbers = list(range(10**6))"
RECORDS = "records = [{'id': i, 'name': f'name {i}', 'score': i / 7} for i in range(200_000)]"
FRAME = """
import numpy, pandas
ids = numpy.arange(100_000)
frame = pandas.DataFrame({
    'id': ids, 'score': ids / 7,
    'name': [f'name {i}' for i in ids], 'city': [('Berlin', 'Paris', 'Rome')[i % 3] for i in ids],
})
del numpy, pandas, ids
"""

CHANGE_ARRAY = "array += 1"


def array(megabytes: int) -> str:
    """Return code that makes an array of so many MB, in which no two parts are the same."""
    return f"import numpy\narray = numpy.arange({megabytes << 17})\ndel numpy"
