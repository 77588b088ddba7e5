"""Namespaces to save: code that fills one, and code that looks at it in the next process.

``CASES``: name of a case, code, code, and what libraries it needs. All that a namespace has must be saved and
loaded, unless the second code looks at ``FAILED`` or ``LOST`` (reasons by name) itself.
"""

# ruff: noqa: E501  the lines are not this file's code

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    setup: str
    check: str
    needs: tuple[str, ...] = ()


CASES: dict[str, Case] = {
    # --- functions
    "function": Case(
        """
def f(a, b=2, *args, c: int = 3, **kw) -> str:
    "doc"
    return f"{a}{b}{c}{args}{kw}"
f.note = [1]
""",
        """
assert f(1) == "123(){}" and f(1, 5, 6, c=7, d=8) == "157(6,){'d': 8}"
assert f.__doc__ == "doc" and f.__annotations__ == {"c": int, "return": str} and f.note == [1]
assert f.__globals__ is globals() and f.__module__ == "__main__" and f.__qualname__ == "f"
""",
    ),
    "recursion": Case(
        """
def fact(n): return 1 if n < 2 else n * fact(n - 1)
def even(n): return n == 0 or odd(n - 1)
def odd(n): return n != 0 and even(n - 1)
def outer():
    def inner(n): return 1 if n < 2 else n * inner(n - 1)
    return inner
local = outer()
again = local
""",
        """
assert fact(5) == 120 and even(10) and not even(7) and local(5) == 120
assert again is local and local.__closure__[0].cell_contents is local
def fact(n): return "new"
assert even.__globals__["fact"](1) == "new"
""",
    ),
    "mutual closures": Case(
        """
def make():
    def ping(n): return [] if n == 0 else ["ping", *pong(n - 1)]
    def pong(n): return [] if n == 0 else ["pong", *ping(n - 1)]
    return ping, pong
ping, pong = make()
""",
        """
assert ping(3) == ["ping", "pong", "ping"]
assert ping.__closure__[0].cell_contents is pong and pong.__closure__[0].cell_contents is ping
""",
    ),
    "shared cells": Case(
        """
def counter():
    n = 0
    def add():
        nonlocal n
        n += 1
        return n
    def get(): return n
    return add, get
add, get = counter()
add()
def empty():
    def f(): return later
    if False: later = 1
    return f
unset = empty()
nothing = (lambda none: lambda: none)(None)
cell = get.__closure__[0]
""",
        """
assert get() == 1 and add() == 2 and get() == 2 and add.__closure__[0] is get.__closure__[0] is cell
try: unset()
except NameError: pass
else: raise AssertionError
assert nothing() is None
""",
    ),
    "function with imports": Case(
        """
import json as J
import os.path
import collections.abc
from math import sin as sine
from json import dumps
import math
def f(x): return J.loads(dumps(x)), sine(0), math.pi, os.path.join("a", "b")
""",
        """
import json, math as m, os as o
assert f({"a": 1}) == ({"a": 1}, 0.0, m.pi, "a/b")
assert J is json and sine is m.sin and dumps is json.dumps and os is o and collections.abc is __import__("collections").abc
""",
    ),
    "decorators": Case(
        """
import functools
def twice(f):
    @functools.wraps(f)
    def wrapper(*args, **kw): return f(*args, **kw) * 2
    return wrapper
@twice
def g(x):
    "g"
    return x + 1
class Repeat:
    def __init__(self, n): self.n = n
    def __call__(self, f): return lambda *a: [f(*a)] * self.n
@Repeat(2)
def h(x): return x
""",
        """
assert g(1) == 4 and g.__name__ == "g" and g.__doc__ == "g" and g.__wrapped__(1) == 2 and h(1) == [1, 1]
assert g.__closure__[0].cell_contents is g.__wrapped__
""",
    ),
    "generator and async functions": Case(
        """
def gen(n):
    for i in range(n): yield i
async def co(x): return x + 1
async def agen():
    yield 1
""",
        """
import asyncio
assert list(gen(3)) == [0, 1, 2] and asyncio.run(co(1)) == 2
async def all_of(): return [x async for x in agen()]
assert asyncio.run(all_of()) == [1]
""",
    ),
    "lambdas in containers": Case(
        """
table = {"add": lambda a, b: a + b, "key": [lambda: table]}
same = table["add"]
k = 3
fs = [lambda x, i=i: x * i + k for i in range(3)]
""",
        """
assert table["add"](1, 2) == 3 and table["key"][0]() is table and same is table["add"]
assert [f(2) for f in fs] == [3, 5, 7]
k = 0
assert [f(2) for f in fs] == [0, 2, 4]
""",
    ),
    "functools": Case(
        """
import functools
@functools.lru_cache(maxsize=10)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
@functools.cache
def one(): return object()
def p(a, b, *, c): return a, b, c
q = functools.partial(p, 1, c=3)
@functools.singledispatch
def kind(x): return "object"
@kind.register
def _(x: int): return "int"
@kind.register(list)
def _(x): return "list"
kind(1)
alias = fib
""",
        """
assert fib(50) == 12586269025 and fib.cache_info().maxsize == 10 and alias is fib and fib.__name__ == "fib"
assert one() is one() and q(2) == (1, 2, 3) and q.func is p
assert (kind(1), kind([]), kind("")) == ("int", "list", "object")
@kind.register
def _(x: str): return "str"
assert kind("") == "str"
""",
    ),
    "context managers": Case(
        """
from contextlib import contextmanager
log = []
@contextmanager
def cm(x):
    log.append(x)
    yield x
    log.append("end")
""",
        """
with cm(5) as got: assert got == 5
assert log == [5, "end"]
""",
    ),
    "functions of other namespaces": Case(
        '''
import types
space = {}
exec("""
count = [0]
base = 10
def inc(): count[0] += 1; return count[0] + base
def get(): return count[0]
class K:
    def m(self): return base
unused = (i for i in ())
""", space)
inc, get, K = space["inc"], space["get"], space["K"]
inc()
del space
mod = types.ModuleType("mod")
exec("""
state = 1
def bump():
    global state
    state += 1
    return state
class In: pass
""", mod.__dict__)
bump, In = mod.bump, mod.In
bump()
kept = {}
exec("""
total = 1
def add(n): global total; total += n; return total
""", kept)
adder = kept["add"]
''',
        """
assert get() == 1 and inc() == 12 and get() == 2 and inc.__globals__ is get.__globals__ is not globals()
assert K().m() == 10
assert mod.state == 2 and bump() == 3 and mod.state == 3 and bump is mod.bump and mod.In is In and mod.__name__ == "mod"
assert adder(4) == 5 == kept["total"] and kept["add"] is adder and kept["__builtins__"]["len"] is len
""",
    ),
    "modules of files": Case(
        """
import importlib.util, os, sys, tempfile
folder = tempfile.mkdtemp()
def write(name):
    path = os.path.join(folder, name + ".py")
    with open(path, "w") as file:
        file.write("X = [5]\\ndef f(): return X\\nclass C:\\n    def m(self): return X\\n")
    return path
def loaded(name, register=False):
    spec = importlib.util.spec_from_file_location(name, write(name))
    module = importlib.util.module_from_spec(spec)
    if register: sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
plug, test, known = loaded("plug"), loaded("test"), loaded("known", True)
f, c, k = plug.f, plug.C(), known.C()
test.X.append(6)
def late(): import known; return known.X
write("helper_of_mine"); write("gone")
sys.path.insert(0, folder)
import helper_of_mine, gone
del sys.path[0]
g = gone.f
__import__("shutil").rmtree(folder)
import json, numpy.linalg
del loaded, write
""",
        """
assert f() is plug.X == [5] and c.m() is plug.X and type(c) is plug.C and plug.__name__ == "plug" and "plug" not in sys.modules
assert test.f() == [5, 6] and k.m() is known.X is late() and sys.modules["known"] is known
assert g() is gone.X and helper_of_mine.f() == [5] and json is sys.modules["json"] and numpy.linalg.norm
""",
        needs=("numpy",),
    ),
    "method objects": Case(
        """
class A:
    def m(self): return self
    def __hidden(self): return "hidden"
    @classmethod
    def c(cls): return cls
    def hide(self): return self.__hidden
a = A()
a.call = a.m
m, h, c, append, join, sort = a.m, a.hide(), A.c, [1].append, ",".join, list.sort
up = str.upper
named = A.m
""",
        """
assert m() is a and a.call() is a and h() == "hidden" and c() is A and join(["a", "b"]) == "a,b" and up("a") == "A"
assert append.__self__ == [1] and sort is list.sort and named is A.m
""",
    ),
    # --- classes
    "class": Case(
        """
class Point:
    "doc"
    origin = None
    count: int = 0
    def __init__(self, x): self.x = x
    def __eq__(self, other): return self.x == other.x
    __hash__ = None
    def me(self): return __class__
    @property
    def double(self): return self.x * 2
    @double.setter
    def double(self, v): self.x = v // 2
    @staticmethod
    def s(): return "s"
    @classmethod
    def make(cls, x): return cls(x)
    class Inner:
        def who(self): return Point
Point.origin = Point(0)
Point.itself = Point
p = Point(3)
deep = Point.Inner()
""",
        """
assert type(p) is Point and p.double == 6 and p == Point.make(3) and Point.s() == "s" and p.me() is Point
p.double = 10
assert p.x == 5 and type(Point.origin) is Point and Point.origin.x == 0 and Point.itself is Point and Point.__doc__ == "doc"
assert deep.who() is Point and type(deep) is Point.Inner and Point.__hash__ is None and Point.__annotations__ == {"count": int}
assert Point.__module__ == "__main__" and Point.Inner.__qualname__ == "Point.Inner"
assert "__dict__" in Point.__dict__ and vars(p) == {"x": 5}
""",
    ),
    "inheritance": Case(
        """
class A:
    def __init__(self, x): self.x = x
    def f(self): return ["A"]
class B(A):
    def __init__(self, x):
        super().__init__(x + 1)
    def f(self): return ["B", *super().f()]
class C(A):
    def f(self): return ["C", *super().f()]
class D(B, C):
    def f(self): return ["D", *super().f()]
d = D(1)
class MyDict(dict):
    def twice(self): return len(self) * 2
md = MyDict(a=1); md.me = md; md["self"] = md
class MyList(list): pass
ml = MyList([1]); ml.append(ml)
class MyInt(int): pass
i = MyInt(5); i.note = "n"
""",
        """
assert d.f() == ["D", "B", "C", "A"] and d.x == 2 and D.__mro__ == (D, B, C, A, object) and B(1).x == 2
assert md.twice() == 4 and md.me is md and md["self"] is md and ml[1] is ml and i == 5 and i.note == "n" and type(i) is MyInt
""",
    ),
    "slots": Case(
        """
class S:
    __slots__ = ("a", "__b")
    def __init__(self): self.a = 1; self.__b = 2
    def b(self): return self.__b
class T(S):
    __slots__ = ("c", "__weakref__")
class U(T): pass
class V:
    __slots__ = iter(("p", "__dict__"))
class W:
    __slots__ = "only"
s, t, u, w = S(), T(), U(), W()
t.c = [t]; u.c = 3; u.d = 4; w.only = 1
""",
        """
assert s.a == 1 and s.b() == 2 and t.c[0] is t and (u.c, u.d, u.b()) == (3, 4, 2) and w.only == 1
v = V()
v.p = 1; v.q = 2
for x in (s, t):
    assert not hasattr(x, "__dict__")
try: s.new = 1
except AttributeError: pass
else: raise AssertionError
import weakref
weakref.ref(t)
assert S().b() == 2
""",
    ),
    "enumerations": Case(
        """
import enum
from enum import Enum, IntEnum, Flag, IntFlag, auto, StrEnum
class Color(Enum):
    RED = 1
    GREEN = 2
    CRIMSON = 1
    def hot(self): return self is Color.RED
    @classmethod
    def default(cls): return cls.GREEN
class Perm(Flag):
    R = auto(); W = auto(); X = auto()
    RW = R | W
class Level(IntEnum):
    LOW = 1; HIGH = 5
class Bits(IntFlag):
    A = 1; B = 2
class Name(StrEnum):
    X = auto(); Y = "why"
class Planet(Enum):
    EARTH = (5.97, 6.37); MARS = (0.64, 3.39)
    def __init__(self, mass, radius): self.mass = mass; self.radius = radius
    @property
    def density(self): return self.mass / self.radius
class Coord(bytes, Enum):
    def __new__(cls, value, label):
        obj = bytes.__new__(cls, [value]); obj._value_ = value; obj.label = label
        return obj
    PX = (0, "P.X"); PY = (1, "P.Y")
class Coded(int, Enum):
    def __new__(cls, code, text):
        obj = int.__new__(cls, code); obj._value_ = text; obj.code = code
        return obj
    A = (1, "one"); B = (2, "two")
class Missing(Enum):
    A = "a"
    @classmethod
    def _missing_(cls, value): return cls.A
class Mixed(str, Enum):
    ONE = "one"
    def __str__(self): return self.value
red, rw, odd = Color.RED, Perm.R | Perm.W, Perm.R | Perm.X
by = {Color.RED: "r", Level.HIGH: "h"}
Color.favourite = Color.GREEN
bits = Bits.A | Bits.B
class Actions(Enum):
    @enum.member
    def run(): return 5
    constant = enum.nonmember(7)
Func = Enum("Func", "A B")
fa = Func.A
""",
        """
assert red is Color.RED is Color.CRIMSON is Color(1) is Color["CRIMSON"] and red.hot() and list(Color) == [Color.RED, Color.GREEN]
assert Color.default() is Color.GREEN is Color.favourite and by[Color.RED] == "r" and by[5] == "h" and repr(red) == "<Color.RED: 1>"
assert rw is Perm.RW and Perm.R in rw and odd == Perm.R | Perm.X and Perm.W not in odd and Perm.R.value == 1 and (~Perm.R) == Perm.W | Perm.X
assert Level.LOW < Level.HIGH == 5 and Level(5) is Level.HIGH and bits == 3 and isinstance(bits, Bits) and (Bits.A | 8) == 9
assert Name.X == "x" and Name.Y == "why" and Name("x") is Name.X
assert Planet.EARTH.mass == 5.97 and Planet((0.64, 3.39)) is Planet.MARS and Planet.MARS.density == 0.64 / 3.39
assert Coord(1) is Coord.PY and Coord.PY.label == "P.Y" and Coord.PY == b"\\x01"
assert Coded("two") is Coded.B and Coded.B == 2 and Coded.B.code == 2
assert Missing("zzz") is Missing.A and str(Mixed.ONE) == "one" == Mixed.ONE and Mixed("one") is Mixed.ONE
assert fa is Func.A and fa.value == 1 and Actions.run.value() == 5 and Actions.constant == 7 and len(Actions) == 1
try: Color(99)
except ValueError: pass
else: raise AssertionError
try: Color.RED = 5
except AttributeError: pass
else: raise AssertionError
""",
    ),
    "dataclasses": Case(
        """
import dataclasses
from dataclasses import dataclass, field, KW_ONLY, InitVar
from typing import ClassVar
@dataclass
class P:
    x: int
    y: list = field(default_factory=list)
    z: ClassVar[int] = 5
    _: KW_ONLY
    w: int = field(default=0, repr=False, metadata={"a": 1})
@dataclass(frozen=True, order=True)
class F:
    a: int
    b: str = "b"
@dataclass(slots=True, frozen=True)
class S:
    a: int
    b: "S | None" = None
p, f, s = P(1, w=3), F(1), S(1, S(2))
keyed = {F(1): "one"}
""",
        """
assert p == P(1, [], w=3) and repr(p) == "P(x=1, y=[])" and P(1).y is not P(1).y and f == F(1) and f < F(2) and keyed[F(1)] == "one"
assert [x.name for x in dataclasses.fields(P)] == ["x", "y", "w"] and dataclasses.fields(P)[2].metadata == {"a": 1}
assert dataclasses.fields(P)[0].default is dataclasses.MISSING and dataclasses.asdict(s) == {"a": 1, "b": {"a": 2, "b": None}}
assert dataclasses.replace(p, x=9).x == 9 and not hasattr(s, "__dict__") and hash(f) == hash(F(1))
try: f.a = 3
except dataclasses.FrozenInstanceError: pass
else: raise AssertionError
@dataclass
class Q(P):
    v: int = 1
assert Q(1).v == 1 and Q(1, w=2).w == 2
""",
    ),
    "typing": Case(
        """
from collections import namedtuple
from typing import *
from abc import ABC, abstractmethod
import abc
NT = namedtuple("NT", "a b", defaults=[5])
class Typed(NamedTuple):
    x: int
    y: str = "y"
    def both(self): return self.x, self.y
T = TypeVar("T"); K = TypeVar("K", bound=int); C = TypeVar("C", int, str); Pm = ParamSpec("Pm")
class Box(Generic[T]):
    def __init__(self, v: T): self.v = v
class IntBox(Box[int]): pass
Box.of_int = Box[int]
class Shape(ABC):
    @abstractmethod
    def area(self): ...
    @property
    @abstractmethod
    def name(self): ...
class Sq(Shape):
    name = "sq"
    def area(self): return 4
@runtime_checkable
class HasLen(Protocol):
    def __len__(self) -> int: ...
class TD(TypedDict, total=False):
    a: int
    b: Required[str]
UserId = NewType("UserId", int)
nt, typed, box, ib, sq = NT(1), Typed(1), Box(3), IntBox(4), Sq()
Shape.register(int)
alias = List[int]; union = Optional[Box]; lst = list[Box[int]]; either = int | None; lit = Literal["a"]; call = Callable[[int], T]
td: TD = {"b": "x"}
ref = ForwardRef("Box")
""",
        """
import typing
assert nt == (1, 5) and NT(b=2, a=1)._asdict() == {"a": 1, "b": 2} and type(nt) is NT and repr(nt) == "NT(a=1, b=5)" and nt._replace(a=3).a == 3
assert typed.both() == (1, "y") and Typed._field_defaults == {"y": "y"} and Typed.__annotations__["x"] is int
assert box.v == 3 and Box[int] and Box.__parameters__ == (T,) and isinstance(ib, Box) and Box.of_int == Box[int] and IntBox.__orig_bases__ == (Box[int],)
assert K.__bound__ is int and C.__constraints__ == (int, str) and T.__module__ == "__main__"
try: Shape()
except TypeError: pass
else: raise AssertionError
assert sq.area() == 4 and isinstance(sq, Shape) and isinstance(5, Shape) and not isinstance("", Shape) and Shape.__abstractmethods__ == {"area", "name"}
class Half(Shape):
    def area(self): return 1
try: Half()
except TypeError: pass
else: raise AssertionError
assert isinstance([], HasLen) and not isinstance(5, HasLen)
assert TD.__required_keys__ == {"b"} and TD(b="x") == td and TD.__total__ is False and typing.is_typeddict(TD)
assert UserId(5) == 5 and UserId.__supertype__ is int and UserId.__name__ == "UserId"
assert alias == List[int] and union == Optional[Box] and lst == list[Box[int]] and either == (int | None) and lit == Literal["a"]
assert call == Callable[[int], T] and ref.__forward_arg__ == "Box"
""",
    ),
    "metaclasses and hooks": Case(
        """
calls = []
class Meta(type):
    registry = {}
    def __new__(mcs, name, bases, ns, **kw):
        calls.append(("new", name))
        return super().__new__(mcs, name, bases, ns)
    def __init__(cls, name, bases, ns, **kw):
        super().__init__(name, bases, ns)
        Meta.registry[name] = cls
    def __call__(cls, *args):
        if not hasattr(cls, "_single"): cls._single = super().__call__(*args)
        return cls._single
    def __setattr__(cls, name, value):
        if name == "forbidden": raise AttributeError(name)
        super().__setattr__(name, value)
    def __len__(cls): return 7
class Single(metaclass=Meta, option=1):
    forbidden = 3
    def __init__(self, v): self.v = v
one = Single(1)
class Hook:
    subs = []
    def __init_subclass__(cls, /, needed, **kw):
        super().__init_subclass__(**kw)
        Hook.subs.append((cls, needed))
class Sub(Hook, needed="yes"): pass
class Desc:
    def __set_name__(self, owner, name):
        if hasattr(self, "name"): raise RuntimeError("twice")
        self.name = name; calls.append(("set", name))
    def __get__(self, obj, cls): return self if obj is None else (self.name, obj)
    def __set__(self, obj, value): raise AttributeError("read only")
class Owner:
    d = Desc()
owner = Owner()
""",
        """
assert calls == [("new", "Single"), ("set", "d")] and Meta.registry == {"Single": Single} and type(Single) is Meta
assert Single(2) is one and one.v == 1 and len(Single) == 7 and Single.forbidden == 3
assert Hook.subs == [(Sub, "yes")]
class Other(Hook, needed="no"): pass
assert Hook.subs[-1] == (Other, "no")
assert owner.d == ("d", owner) and Owner.d.name == "d"
try: owner.d = 1
except AttributeError: pass
else: raise AssertionError
class New(metaclass=Meta): pass
assert calls[-1] == ("new", "New")
""",
    ),
    "cached property": Case(
        """
import functools
class A:
    calls = 0
    @functools.cached_property
    def v(self): A.calls += 1; return [A.calls]
    @functools.singledispatchmethod
    def k(self, x): return "o"
    @k.register
    def _(self, x: int): return "i"
    half = functools.partialmethod(pow, 2)
a, b = A(), A()
a.v
""",
        """
assert a.v is a.v and a.v == [1] and b.v == [2] and b.v is b.v and A.v.func and (a.k(1), a.k("")) == ("i", "o")
""",
    ),
    "class redefined": Case(
        """
class A:
    def f(self): return "old"
old = A()
OldA = A
class A:
    def f(self): return "new"
new = A()
""",
        """
assert old.f() == "old" and new.f() == "new" and type(old) is OldA and type(new) is A and A is not OldA
""",
    ),
    "instances in their class": Case(
        """
class Node:
    __slots__ = ("value", "next")
    def __new__(cls, value, next=None):
        self = object.__new__(cls); self.value = value; self.next = next
        return self
    def __getnewargs__(self): return (self.value,)
    def __hash__(self): return hash(self.value)
    def __eq__(self, o): return self.value == o.value
    def __getstate__(self): return {"value": self.value, "next": self.next}
    def __setstate__(self, s): self.value, self.next = s["value"], s["next"]
Node.EMPTY = Node(0)
Node.table = {Node.EMPTY: "empty"}
n = Node(1, Node.EMPTY)
loop = Node(2); loop.next = loop
""",
        """
assert n.next is Node.EMPTY and Node.table[Node(0)] == "empty" and loop.next is loop and loop.value == 2
""",
    ),
    "classes that make their objects themselves": Case(
        """
class Config:
    _instance = None
    made = 0
    def __new__(cls, *args):
        if cls._instance is None:
            cls._instance = super().__new__(cls)
            cls._instance.values = {}
            Config.made += 1
        return cls._instance
    def __init__(self, x=None):
        if x: self.values["x"] = x
c = Config(3)
class Color:
    _all = {}
    def __new__(cls, name):
        if name not in cls._all:
            self = super().__new__(cls); self.name = name; cls._all[name] = self
        return cls._all[name]
    def __getnewargs__(self): return (self.name,)
r, g = Color("r"), Color("g")
class Symbol(str):
    _all = {}
    def __new__(cls, name, kind):
        if name not in cls._all:
            cls._all[name] = super().__new__(cls, name); cls._all[name].kind = kind
        return cls._all[name]
s = Symbol("s", [1])
class Counted:
    count = 0
    def __new__(cls, v):
        cls.count += 1
        return super().__new__(cls)
    def __init__(self, v): self.v = v
class Derived(Counted): pass
ps = [Counted(1), Counted(2)]; derived = Derived(3); ps[0].me = ps[0]
class Slotted:
    __slots__ = ("a", "b")
    def __new__(cls, a, b):
        self = object.__new__(cls); self.a = a; self.b = b
        return self
slotted = Slotted(1, []); slotted.b.append(slotted)
""",
        """
assert Config() is c and c.values == {"x": 3} and Config.made == 1
assert Color("r") is r is Color._all["r"] and Color("g") is g and g.name == "g" and len(Color._all) == 2
assert Symbol("s", None) is s and s == "s" and s.kind == [1] and type(s) is Symbol
assert [p.v for p in ps] == [1, 2] and Counted.count == 2 and (derived.v, Derived.count) == (3, 3) and ps[0].me is ps[0]
assert slotted.a == 1 and slotted.b == [slotted]
""",
    ),
    "builtin types made from other arguments": Case(
        """
import collections, datetime, decimal
class Version(str):
    def __new__(cls, major, minor):
        self = super().__new__(cls, f"{major}.{minor}"); self.major = major
        return self
class Money(int):
    def __new__(cls, amount, currency):
        self = super().__new__(cls, amount); self.currency = currency
        return self
class Vec(tuple):
    def __new__(cls, *parts): return super().__new__(cls, parts)
class Reading(float):
    def __new__(cls, *, value): return super().__new__(cls, value)
class Raw(bytes):
    def __new__(cls, text): return super().__new__(cls, text.encode())
class Imaginary(complex):
    def __new__(cls, size): return super().__new__(cls, 0, size)
class Tags(frozenset):
    def __new__(cls, *tags):
        self = super().__new__(cls, tags); self.first = tags[0]
        return self
class Day(datetime.date):
    def __new__(cls, text):
        self = super().__new__(cls, *map(int, text.split("-"))); self.text = text
        return self
class Price(decimal.Decimal):
    def __new__(cls, amount, unit): return super().__new__(cls, amount)
class Pair(collections.namedtuple("Pair", "x y")):
    def __new__(cls, both): return super().__new__(cls, both, both)
class Named(set):
    def __init__(self, name, *items): super().__init__(items); self.name = name
class Log(collections.deque):
    def __init__(self, *, size): super().__init__(maxlen=size)
class Groups(collections.defaultdict):
    def __init__(self): super().__init__(list); self.seen = [self]
class Ordered(collections.OrderedDict):
    def __init__(self, *, key): super().__init__(); self.key = key
class Items(list):
    def __new__(cls, one): return super().__new__(cls)
    def __init__(self, one): super().__init__([one, self])
class Table(dict):
    def __new__(cls, one): return super().__new__(cls)
    def __init__(self, one): super().__init__(one=one); self.self = self
class Missing(KeyError):
    def __new__(cls, *, key): return super().__new__(cls, key)
    def __init__(self, *, key): self.key = key
v, m, ve, re, ra, im = Version(1, 2), Money(5, "EUR"), Vec(1, [2]), Reading(value=2.5), Raw("a"), Imaginary(2)
t, d, p, xy, n, lo = Tags("a", "b"), Day("2024-05-06"), Price("1.50", "EUR"), Pair(3), Named("n", 1, 2), Log(size=2)
gr, o, i, ta, mi = Groups(), Ordered(key=1), Items(1), Table(1), Missing(key="k")
ve[1].append(ve); lo.extend([1, 2, 3]); gr["a"].append(1); o["b"] = 2
""",
        """
assert (v, v.major, m, m.currency, re, ra, im) == ("1.2", 1, 5, "EUR", 2.5, b"a", 2j) and ve[0] == 1 and type(ve) is Vec
assert t == {"a", "b"} and t.first == "a" and (d.month, d.text, str(p), xy.x, xy.y) == (5, "2024-05-06", "1.50", 3, 3)
assert n == {1, 2} and n.name == "n" and list(lo) == [2, 3] and lo.maxlen == 2 and gr["a"] == [1] and gr["z"] == [] and gr.seen[0] is gr
assert o == {"b": 2} and o.key == 1 and i[0] == 1 and i[1] is i and ta == {"one": 1} and ta.self is ta and mi.args == (mi.key,) == ("k",)
assert {type(x).__name__ for x in (v, m, ve, re, ra, im, t, d, p, xy, n, lo, gr, o, i, ta, mi)} == {x.__name__ for x in
    (Version, Money, Vec, Reading, Raw, Imaginary, Tags, Day, Price, Pair, Named, Log, Groups, Ordered, Items, Table, Missing)}
""",
    ),
    "hash of what is in a cycle": Case(
        """
import enum
from collections import namedtuple
from dataclasses import dataclass, field
class Node:
    def __init__(self, name): self.nb = set(); self.name = name
    def __hash__(self): return hash(self.name)
    def __eq__(self, other): return self.name == other.name
a, b = Node("a"), Node("b"); a.nb.add(b); b.nb.add(a)
@dataclass(unsafe_hash=True)
class City:
    id: int
    roads: dict = field(default_factory=dict, hash=False, compare=False)
cities = [City(i) for i in range(3)]
for x in cities:
    for y in cities:
        if x is not y: x.roads[y] = 1
@dataclass(frozen=True)
class Vertex:
    key: tuple
    out: set = field(hash=False, compare=False)
v, w = Vertex((1, "v"), set()), Vertex((1, "w"), set()); v.out.update((v, w)); w.out.add(v)
@dataclass(frozen=True, slots=True)
class Pos:
    x: int
    y: int
Size = namedtuple("Size", "w h")
Kind = enum.Enum("Kind", "ROAD WALL")
class Cell:
    __slots__ = ("pos", "size", "kind", "near")
    def __init__(self, *key): self.pos, self.size, self.kind = key; self.near = {}
    def __hash__(self): return hash((type(self), self.pos, self.size, self.kind))
    def __eq__(self, other): return (self.pos, self.kind) == (other.pos, other.kind)
here, there = Cell(Pos(0, 0), Size(1, 2), Kind.ROAD), Cell(Pos(0, 1), Size(1, 2), Kind.WALL)
here.near[there] = there.near[here] = 1
class Kept:
    def __init__(self, n): self.n = n; self.lock = open; self.peers = set()
    def __hash__(self): return hash(self.n)
    def __eq__(self, other): return self.n == other.n
    def __getstate__(self): return {"n": self.n, "peers": self.peers}
    def __setstate__(self, state): self.__dict__.update(state); self.lock = None
k, l = Kept(1), Kept(2); k.peers.add(l); l.peers.add(k)
class Word(str):
    def __new__(cls, text, lang): self = super().__new__(cls, text); self.lang = lang; self.also = set(); return self
    def __hash__(self): return hash((str(self), self.lang))
    def __eq__(self, other): return str(self) == str(other) and self.lang == other.lang
one, uno = Word("one", "en"), Word("uno", "es"); one.also.add(uno); uno.also.add(one)
order = list(vars(a)), list(vars(cities[0]))
del x, y
""",
        """
assert a in b.nb and b in a.nb and next(iter(a.nb)) is b and cities[1] in cities[0].roads and cities[0] in cities[1].roads
assert v in v.out and w in v.out and v in w.out and here in there.near and there in here.near and here.kind is Kind.ROAD
assert l in k.peers and k in l.peers and k.lock is None and one in uno.also and uno in one.also and str(one) == "one"
assert (list(vars(a)), list(vars(cities[0]))) == order == (["nb", "name"], ["id", "roads"])
""",
    ),
    "hash needs helpers": Case(
        """
data = None
class Key:
    def __init__(self, v): self.v = v
    def __hash__(self): return helper(self.v)
    def __eq__(self, o): return self.v == o.v
    def __reduce__(self): return Key, (self.v,)
d = {}
s = set()
def helper(v): return zlib.crc32(v)
import zlib
d[Key(b"a")] = 1
s.add(Key(b"b"))
""",
        """
assert d[Key(b"a")] == 1 and Key(b"b") in s and list(globals()).index("data") < list(globals()).index("helper")
""",
    ),
    "exceptions": Case(
        """
class MyError(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code
class Kw(ValueError):
    def __init__(self, *, reason):
        self.reason = reason
class Os(OSError):
    def __init__(self, number, extra):
        super().__init__(number, "text", "file.txt")
        self.extra = extra
e, k, o = MyError(5, "bad"), Kw(reason="r"), Os(2, "x")
plain = ValueError("a", 1)
key = KeyError("k")
try: 1 / 0
except ZeroDivisionError as error: z = error
try: "a".encode().decode("utf-16")
except UnicodeDecodeError as error: u = error
group = ExceptionGroup("g", [ValueError(1)])
noted = ValueError("n"); noted.add_note("note")
""",
        """
assert type(e) is MyError and str(e) == "5: bad" and e.code == 5 and e.args == ("5: bad",)
assert k.reason == "r" and (o.errno, o.strerror, o.filename, o.extra) == (2, "text", "file.txt", "x")
assert plain.args == ("a", 1) and str(z) == "division by zero" and u.encoding.startswith("utf-16") and group.exceptions[0].args == (1,)
assert noted.__notes__ == ["note"] and key.args == ("k",)
try: raise e
except MyError as got: assert got is e
""",
    ),
    "exceptions and what they came from": Case(
        """
class Mine(Exception):
    def __init__(self, *, code): super().__init__("mine"); self.code = code
def raised(f):
    try: f()
    except BaseException as error: return error
def explicit():
    try: 1 / 0
    except ZeroDivisionError as error: raise Mine(code=5) from error
def implicit():
    try: {}["a"]
    except KeyError: raise ValueError("v")
def without():
    try: {}["a"]
    except KeyError: raise ValueError("v") from None
def chain():
    error = None
    for number in range(5000):
        try: raise ValueError(number)
        except ValueError as new: new.__context__ = error; error = new
    raise error
def unsavable():
    try: raise KeyError(i for i in ())
    except KeyError as error: raise ValueError("kept") from error
e, i, w, long, u = map(raised, (explicit, implicit, without, chain, unsavable))
n, a, m = raised(lambda: nowhere), raised(lambda: (1).nothing), raised(lambda: __import__("nowhere"))
loop = ValueError("loop"); loop.__context__ = KeyError("k"); loop.__context__.__context__ = loop
n.add_note("note")
""",
        """
assert type(e) is Mine and e.code == 5 and type(e.__cause__) is ZeroDivisionError and e.__suppress_context__ and e.__context__ is e.__cause__
assert type(i.__context__) is KeyError and i.__cause__ is None and not i.__suppress_context__
assert w.__cause__ is None and w.__suppress_context__ and long.args == (4999,) and u.args == ("kept",) and loop.args == ("loop",)
assert (n.name, a.name, m.name, n.__notes__) == ("nowhere", "nothing", "nowhere", ["note"])
""",
    ),
    "classes of properties": Case(
        """
class classproperty(property):
    def __get__(self, instance, owner): return self.fget(owner)
class noted(property):
    def __init__(self, note): self.note = note
    def __call__(self, f): super().__init__(f); return self
class sm(staticmethod): pass
class cm(classmethod):
    def __init__(self, f, extra=None): super().__init__(f); self.extra = extra
class A:
    @classproperty
    def name(cls): return cls.__name__
    @noted("note")
    def value(self): "doc"; return 5
    @sm
    def s(): return 1
    @cm
    def c(cls): return cls
a = A()
""",
        """
assert A.name == "A" == a.name and a.value == 5 and A.__dict__["value"].note == "note" and A.value.__doc__ == "doc"
assert A.s() == 1 and A.c() is A and A.__dict__["c"].extra is None and type(A.__dict__["s"]) is sm and A().value == 5
""",
    ),
    "delegation": Case(
        """
class Proxy:
    def __init__(self, target): self.target = target
    def __getattr__(self, name): return getattr(self.target, name)
class AttrDict(dict):
    __getattr__ = dict.get
    __setattr__ = dict.__setitem__
class Frozen:
    __slots__ = ("x", "_y")
    def __init__(self, x):
        object.__setattr__(self, "x", x); object.__setattr__(self, "_y", [self])
    def __setattr__(self, name, value): raise AttributeError("frozen")
class Lazy:
    def __getattribute__(self, name):
        if name.startswith("lazy_"): return name
        return super().__getattribute__(name)
proxy, attrs, frozen, lazy = Proxy([1, 2]), AttrDict(a=1), Frozen(5), Lazy()
attrs.b = 2
lazy.value = proxy
class Named:
    def __reduce__(self): return "SENTINEL"
SENTINEL = Named()
sentinels = [SENTINEL]
""",
        """
assert proxy.index(2) == 1 and type(proxy) is Proxy and attrs.a == 1 and attrs.b == 2 and attrs.zzz is None
assert frozen.x == 5 and frozen._y[0] is frozen and lazy.lazy_a == "lazy_a" and lazy.value is proxy
assert sentinels[0] is SENTINEL and type(SENTINEL) is Named
try: frozen.x = 3
except AttributeError: pass
else: raise AssertionError
""",
    ),
    "subclasses of the standard library": Case(
        """
import collections, collections.abc, threading, logging, json, argparse, ctypes, string, contextlib
class M(collections.abc.Mapping):
    def __init__(self, **kw): self.kw = kw
    def __getitem__(self, key): return self.kw[key]
    def __iter__(self): return iter(self.kw)
    def __len__(self): return len(self.kw)
class UD(collections.UserDict): pass
class DD(collections.defaultdict):
    def __missing__(self, key): return key * 2
class OD(collections.OrderedDict): pass
class T(tuple):
    def __new__(cls, a, b): return super().__new__(cls, (a, b))
    def __getnewargs__(self): return tuple(self)
class Str(str):
    def shout(self): return self.upper()
class Enc(json.JSONEncoder):
    def default(self, o): return "?"
class CM(contextlib.ContextDecorator):
    def __enter__(self): return 5
    def __exit__(self, *a): return False
m, ud, dd, od, t, s, enc, cm = M(a=1), UD(a=1), DD(list), OD(a=1), T(1, 2), Str("a"), Enc(), CM()
parser = argparse.ArgumentParser(); parser.add_argument("--n", type=int, default=3)
fmt = logging.Formatter("%(message)s")
Dynamic = type("Dynamic", (M,), {"extra": lambda self: 9})
dyn = Dynamic(z=1)
with_stack = contextlib.ExitStack()
""",
        """
assert dict(m) == {"a": 1} and isinstance(m, collections.abc.Mapping) and ud["a"] == 1 and dd["x"] == "xx" and list(od) == ["a"]
assert t == (1, 2) and type(t) is T and s.shout() == "A" and json.dumps(object(), cls=Enc) == '"?"' and enc.encode({}) == "{}"
with cm as five: assert five == 5
assert parser.parse_args(["--n", "5"]).n == 5 and dyn.extra() == 9 and dyn["z"] == 1 and isinstance(dyn, M)
""",
    ),
    # --- values
    "aliases": Case(
        """
a = b = []
c = {"a": a}
l = [1]; l.append(l)
d = {}; d["d"] = d
t = ([],); t[0].append(t)
x = object()
y = [x, x]
everything = globals()
st = {1, 2}; fz = frozenset([st.__len__()])
""",
        """
assert a is b and c["a"] is a and l[1] is l and d["d"] is d and t[0][0] is t and y[0] is y[1] is x
assert everything is globals() and st == {1, 2} and fz == {2}
""",
    ),
    "standard library values": Case(
        """
import re, pathlib, datetime, zoneinfo, decimal, fractions, collections, uuid, random, itertools, array, string, ipaddress
import operator, types, io, time, struct, hashlib, logging, copy, textwrap
pattern = re.compile("a(b)+", re.I); match_free = pattern.sub
path = pathlib.Path("/a/b"); pure = pathlib.PurePosixPath("x")
when = datetime.datetime(2024, 1, 2, tzinfo=zoneinfo.ZoneInfo("UTC")); utc = datetime.timezone.utc; delta = datetime.timedelta(1)
dec, frac, ident = decimal.Decimal("1.50"), fractions.Fraction(1, 3), uuid.UUID(int=5)
od, dd, cnt, dq = collections.OrderedDict(b=1, a=2), collections.defaultdict(list, {1: [2]}), collections.Counter("aab"), collections.deque([1, 2], 5)
lamdd = collections.defaultdict(lambda: 7)
chain = collections.ChainMap({"a": 1}, {"b": 2})
rng = random.Random(5); rng.random()
expect = copy.copy(rng).random()
it, count, zipped = iter([1, 2, 3]), itertools.count(5), zip([1, 2], "ab")
next(it)
arr, r, sl, big, ba, cx = array.array("d", [1.0]), range(3), slice(1, 2), b"x" * 200_000, bytearray(b"y" * 100_000), 1j
huge = 10 ** 500
template = string.Template("$a"); net = ipaddress.ip_network("10.0.0.0/8")
get = operator.itemgetter(1); simple = types.SimpleNamespace(a=1); simple.me = simple
proxy = types.MappingProxyType({"a": 1})
views = dd.keys(), dd.values(), dd.items()
mv, part = memoryview(big), memoryview(ba)[1:3]
bio, sio = io.BytesIO(b"abc"), io.StringIO("abc")
bio.read(1)
log = logging.getLogger("me")
nothing, dots, notimp, inf = None, ..., NotImplemented, float("inf")
kinds = [int, type(None), types.FunctionType, type({}.keys()), types.GeneratorType, type(len), type(...), types.ModuleType, collections.abc.Mapping]
functions = [len, print, math_sin := __import__("math").sin, str.join, dict.fromkeys, object.__init__, int.__add__, "a".__len__]
code = compile("1+1", "<x>", "eval")
text = "\\ud800 é 😀" * 3
match = pattern.match
found, second = re.search("b(.)", "abc"), list(re.finditer("(a)b", "ab ab"))[1]
class Base:
    def who(self): return "base"
class Child(Base):
    def who(self): return super()
above = Child().who()
""",
        """
import math
assert pattern.match("ABB") and path == pathlib.Path("/a/b") and pure.name == "x" and when.tzinfo.key == "UTC" and utc is datetime.timezone.utc
assert delta.days == 1 and str(dec) == "1.50" and frac * 3 == 1 and ident.int == 5
assert list(od) == ["b", "a"] and dd[9] == [] and cnt["a"] == 2 and dq.maxlen == 5 and lamdd[1] == 7 and chain["b"] == 2
assert rng.random() == expect and list(it) == [2, 3] and next(count) == 5 and list(zipped) == [(1, "a"), (2, "b")]
assert arr[0] == 1.0 and r == range(3) and sl == slice(1, 2) and big == b"x" * 200_000 and ba == bytearray(b"y" * 100_000) and cx == 1j
assert huge == 10 ** 500 and template.substitute(a=1) == "1" and net.num_addresses == 2 ** 24 and get([0, 5]) == 5 and simple.me is simple
assert proxy["a"] == 1 and type(proxy) is types.MappingProxyType and list(views[0]) == [1, 9] and len(views[1]) == 2
assert mv.obj is big and part.tobytes() == b"yy" and not part.readonly and mv.readonly
assert bio.read() == b"bc" and sio.getvalue() == "abc" and log is logging.getLogger("me")
assert nothing is None and dots is ... and notimp is NotImplemented and inf == math.inf
assert kinds == [int, type(None), types.FunctionType, type({}.keys()), types.GeneratorType, type(len), type(...), types.ModuleType, collections.abc.Mapping]
assert functions[:5] == [len, print, math.sin, str.join, dict.fromkeys] and functions[6](1, 2) == 3 and functions[7]() == 1
assert eval(code) == 2 and text == "\\ud800 é 😀" * 3 and match("ab")
assert found.group(1) == "c" and found.span() == (1, 3) and second.span() == (3, 5) and second.group(1) == "a" and above.who() == "base"
""",
    ),
    "streams": Case(
        "import sys\nout, err = sys.stdout, sys.__stderr__\n",
        "import sys\nassert out is sys.stdout and err is sys.__stderr__\n",
    ),
    "weak collections": Case(
        """
import weakref
class A: pass
a = A()
keyed, valued, members = weakref.WeakKeyDictionary({a: 1}), weakref.WeakValueDictionary({"a": a}), weakref.WeakSet([a])
""",
        """
assert keyed[a] == 1 and valued["a"] is a and list(members) == [a]
del a
assert len(keyed) == len(valued) == len(members) == 0
""",
    ),
    "dill is asked last": Case(
        """
import contextvars
variable = dict.__dict__["fromkeys"]
both = [variable, variable]
hasher = __import__("hashlib").sha256(b"a")
""",
        """
assert variable is both[0] is both[1] and variable.__get__(None, dict)("a") == {"a": None} and DILL.count(".") == 2
assert set(FAILED) == {"hasher"} and "HASH" in FAILED["hasher"] and LOST == {}
""",
        needs=("dill",),
    ),
    # --- libraries
    "numpy": Case(
        """
import numpy as np
from numpy import mean
a = np.arange(12.0).reshape(3, 4)
same = {"a": a}
f = np.asfortranarray(a)
z = np.array(5)
st = np.zeros(2, dtype=[("x", "i4"), ("s", "U5")]); st["s"][0] = "abc"
ob = np.array([1, "a", None, [a]], dtype=object)
big = np.ones((300, 100)); huge = np.arange(1_000_000)
ro = np.arange(3); ro.flags.writeable = False
scalar, dt, b8 = np.float32(1.5), np.dtype("M8[ns]"), np.array([True])
row, rev, col = a[1], huge[::-1], f[:, 1]
strings, dates = np.array(["a", "bcd"]), np.array(["2024-01-01"], "M8[D]")
g = np.random.default_rng(5); g.random()
legacy = np.random.RandomState(3); legacy.rand()
state = np.random.get_state()
np.random.seed(7)
now = np.random.get_state()
vec = np.vectorize(lambda x: x + 1)
masked = np.ma.array([1, 2], mask=[0, 1])
class Sub(np.ndarray): pass
sub = np.arange(3).view(Sub); sub.note = 1
poly = np.polynomial.Polynomial([1, 2])
expect = [np.random.default_rng(5).random() for _ in "a"],
rec = np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)])
add, npi = np.add, np.pi
del expect
g2 = np.random.default_rng(5); g2.random(); after = g2.random(); del g2
""",
        """
assert (a == np.arange(12.0).reshape(3, 4)).all() and same["a"] is a and f.flags.f_contiguous and (f == a).all() and z == 5 and z.shape == ()
assert st["s"][0] == "abc" and ob[3][0] is a and big.sum() == 30000 and huge[-1] == 999_999 and not ro.flags.writeable
assert type(scalar) is np.float32 and dt == np.dtype("M8[ns]") and b8[0] and strings[1] == "bcd" and str(dates[0]) == "2024-01-01"
a[1, 0] = 77
assert row[0] == 77
huge[-1] = 5
assert rev[0] == 5 and rev.strides == (-8,)
f[2, 1] = 88
assert col[2] == 88
big[0] = 5; huge[0] = 1
assert g.random() == after and (np.random.get_state()[1] is not None) and state[0] == now[0]
np.random.set_state(now); x = np.random.rand(); np.random.seed(7); assert np.random.rand() == x
assert list(vec([1, 2])) == [2, 3] and masked.sum() == 1 and type(sub) is Sub and poly(1) == 3 and rec.a[0] == 1
assert add is np.add and mean is np.mean
legacy.rand()
""",
        needs=("numpy",),
    ),
    "arrays that show memory again and again": Case(
        """
import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view
ones = np.broadcast_to(np.float64(1), (100_000_000,))
rows = np.broadcast_to(np.arange(3.0), (10_000_000, 3))
same = [rows]
text = np.broadcast_to(np.array([["a"], ["bc"]]), (2, 50_000_000))
things = np.broadcast_to(np.array(None, object), (100_000_000,))
windows = sliding_window_view(np.arange(1_000_000.0), 1000)
back = sliding_window_view(np.arange(100.0), 10)[::-1, ::-1]
numbers = np.arange(10)
pairs = sliding_window_view(numbers, 2)
again = as_strided(np.arange(3), (5, 3), (0, 8))
records = sliding_window_view(np.array([(1, 2.0), (3, 4.0), (5, 6.0)], "i4,f8"), 2)
""",
        """
assert ones.shape == (100_000_000,) and ones[7] == 1 == ones[-1] and ones.strides == (0,) and not ones.flags.writeable
assert rows.shape == (10_000_000, 3) and rows[-1].tolist() == [0, 1, 2] and rows.strides == (0, 8) and same[0] is rows
assert text.shape == (2, 50_000_000) and text[1, -1] == "bc" and things.shape == (100_000_000,) and things[5] is None
assert windows.shape == (999_001, 1000) and windows[5].tolist() == list(range(5, 1005)) and windows.strides == (8, 8)
assert back[0].tolist() == list(range(99, 89, -1)) and back[-1].tolist() == list(range(9, -1, -1)) and not back.flags.writeable
numbers[1] = 77
assert pairs[0, 1] == pairs[1, 0] == 77 and records[1].tolist() == [(3, 4.0), (5, 6.0)]
again[0, 1] = 5
assert again.tolist() == [[0, 5, 2]] * 5
""",
        needs=("numpy",),
    ),
    "classes of arrays": Case(
        """
import numpy as np, tempfile, os
class Info(np.ndarray):
    def __new__(cls, values, info=None):
        made = np.asarray(values).view(cls); made.info = info
        return made
    def __array_finalize__(self, other): self.info = getattr(other, "info", None)
array = Info([1, 2], info={"unit": "m"})
array.itself = array
plain = np.arange(4).view(Info)
folder = tempfile.mkdtemp()
mapped = np.memmap(os.path.join(folder, "data"), "f8", "w+", shape=(10,))
part, copied = mapped[2:5], mapped.copy()
__import__("shutil").rmtree(folder)
""",
        """
assert array.tolist() == [1, 2] and type(array) is Info and array.info == {"unit": "m"} and array.itself is array
assert plain.tolist() == [0, 1, 2, 3] and plain.info is None and copied.tolist() == [0.0] * 10
assert FAILED == dict.fromkeys(("mapped", "part"), "an array that is mapped to a file cannot be saved"), FAILED
""",
        needs=("numpy",),
    ),
    "pandas": Case(
        """
import pandas as pd, numpy as np
df = pd.DataFrame({"a": range(5), "s": list("abcde"), "c": pd.Categorical(list("xyxyx")), "f": np.linspace(0, 1, 5), "n": [None, 1, "x", 2.0, []]})
df.index = pd.date_range("2024-01-01", periods=5, tz="UTC")
alias = {"df": df}
multi = df.reset_index().set_index(["a", "s"])
ser = df["a"].rename("ser"); na = pd.NA; nat = pd.NaT; ts = pd.Timestamp("2024-01-01"); per = pd.Period("2024-01", "M"); iv = pd.Interval(0, 1)
nullable = pd.array([1, None], dtype="Int64"); strs = pd.Series(["a", None], dtype="string"); empty = pd.DataFrame()
big = pd.DataFrame(np.random.default_rng(1).random((20_000, 5)), columns=list("abcde"))
total = big.sum().sum()
grouped = df.groupby("c", observed=True)
def top(frame): return pd.DataFrame(frame).head(1)
""",
        """
assert list(df["s"]) == list("abcde") and df["c"].cat.categories.tolist() == ["x", "y"] and df.index.tz is not None and alias["df"] is df
assert str(df.index[1].date()) == "2024-01-02" and multi.loc[(0, "a")]["f"] == 0 and ser.name == "ser" and na is pd.NA and nat is pd.NaT
assert ts.year == 2024 and per.month == 1 and 0.5 in iv and nullable.isna().tolist() == [False, True] and strs.isna().tolist() == [False, True]
assert empty.empty and big.sum().sum() == total and len(top(df)) == 1 and grouped["a"].sum().tolist() == [6, 4]
df.loc[df.index[0], "a"] = 100
big.iloc[0, 0] = 5.0
assert df["a"].iloc[0] == 100 and big["a"].iloc[0] == 5.0
""",
        needs=("pandas",),
    ),
    "scikit-learn": Case(
        """
import numpy as np
from sklearn.linear_model import LinearRegression
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
X = np.arange(40.0).reshape(20, 2); y = X.sum(axis=1); c = (y > 30).astype(int)
def twice(x): return x * 2
model = make_pipeline(StandardScaler(), FunctionTransformer(twice), LinearRegression()).fit(X, y)
forest = RandomForestClassifier(5, random_state=1).fit(X, c)
want = model.predict(X), forest.predict(X)
from sklearn.base import BaseEstimator, TransformerMixin, clone
class Adder(BaseEstimator, TransformerMixin):
    def __init__(self, n=1): self.n = n
    def fit(self, X, y=None): return self
    def transform(self, X): return X + self.n
own = make_pipeline(Adder(3), LinearRegression()).fit(X, y)
""",
        """
assert (model.predict(X) == want[0]).all() and (forest.predict(X) == want[1]).all() and model.steps[1][1].func is twice
assert np.allclose(own.predict(X), y) and type(own.steps[0][1]) is Adder and clone(own.steps[0][1]).n == 3
""",
        needs=("sklearn",),
    ),
    "matplotlib": Case(
        """
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
fig, ax = plt.subplots()
line, = ax.plot([1, 2, 3], label="l")
ax.set_title("title"); ax.legend()
""",
        """
import io
assert ax.get_title() == "title" and ax.figure is fig and ax.lines[0] is line and list(line.get_ydata()) == [1, 2, 3]
fig.savefig(io.BytesIO())
""",
        needs=("matplotlib",),
    ),
    "sympy and networkx": Case(
        """
import sympy, networkx as nx
x, y = sympy.symbols("x y")
expr = sympy.sin(x) ** 2 + y
f = sympy.lambdify(x, x ** 2)
graph = nx.path_graph(3)
""",
        """
assert expr.diff(x) == 2 * sympy.sin(x) * sympy.cos(x) and f(3) == 9 and list(graph.edges) == [(0, 1), (1, 2)] and sympy.Symbol("x") == x
""",
        needs=("sympy", "networkx"),
    ),
    # --- what cannot be saved, and what cannot be loaded
    "refused": Case(
        """
import socket, threading, weakref, sys, tempfile, asyncio, subprocess, concurrent.futures, sqlite3, queue
class A: pass
a = A()
gen = (i for i in range(3))
async def co(): pass
coro = co()
file = tempfile.TemporaryFile()
sock = socket.socket()
lock, thread, ref, frame, cond = threading.Lock(), threading.Thread(), weakref.ref(a), sys._getframe(), threading.Event()
try: 1 / 0
except ZeroDivisionError as e: tb = e.__traceback__
pool = concurrent.futures.ThreadPoolExecutor()
db = sqlite3.connect(":memory:")
nested = [1, {"deep": gen}]
class Holder: pass
holder = Holder(); holder.lock = lock
def closes():
    g = gen
    return lambda: g
closure = closes()
kept = [a]
import ctypes
class Struct(ctypes.Structure): _fields_ = [("x", ctypes.c_int)]
struct = Struct(5)
loop = asyncio.new_event_loop(); loop.close()
q = queue.Queue()
coro.close()
""",
        """
assert set(FAILED) == {"gen", "coro", "file", "sock", "lock", "thread", "ref", "frame", "cond", "tb", "pool", "db", "nested", "holder", "closure", "loop", "q", "Struct", "struct"}, FAILED
assert "generator" in FAILED["gen"] and "generator" in FAILED["nested"] and "file" in FAILED["file"] and "socket" in FAILED["sock"]
assert "lock" in FAILED["holder"] and "generator" in FAILED["closure"] and "database" in FAILED["db"] and "traceback" in FAILED["tb"], FAILED
assert kept == [a] and type(a) is A and Holder and LOST == {}
""",
    ),
    "hostile objects": Case(
        """
import sys, os
class Raises:
    def __init__(self, error): self.error = error
    def __reduce__(self): raise self.error
class BadText(Exception):
    def __str__(self): raise SystemExit("no text")
class BadBase(BaseException):
    def __str__(self): return Loud("x" * 10_000)
class Loud(str):
    def __getitem__(self, key): raise ValueError
    def __str__(self): raise ValueError
ok1 = [1]
e1, e2, e3, e4, e5, e6, e7 = (Raises(each) for each in (SystemExit(1), KeyboardInterrupt(), MemoryError(), RecursionError(), BadText(), BadBase(), StopIteration()))
class Wrong:
    def __reduce__(self): return 5
class Liar:
    __class__ = int
class Grows:
    def __init__(self, target): self.target = target
    def __reduce__(self):
        self.target.extend([1] * 10)
        namespace["surprise"] = 1
        return Grows, ([],)
class Shrinks:
    def __reduce__(self):
        shrinking.clear()
        return Shrinks, ()
class Meta(type):
    def __eq__(cls, o): raise ValueError("eq")
    def __hash__(cls): raise ValueError("hash")
class Unhashable(metaclass=Meta): pass
unhashable = 1
namespace = globals()
growing = []; growing += [Grows(growing), 2]
shrinking = []; shrinking += [Shrinks(), ok1, 3]
wrong, liar = Wrong(), Liar()
deep = []
for _ in range(100_000): deep = [deep]
class Link: pass
chain = None
for _ in range(100_000):
    link = Link(); link.next = chain; chain = link
del link, _
class Prop:
    @property
    def __dict__(self): raise ValueError("dict")
    @property
    def __class__(self): raise ValueError("class")
prop = Prop()
ok2 = {"ok1": ok1}
sys.setrecursionlimit(10 ** 6)
""",
        """
failing = {"e1", "e2", "e3", "e4", "e5", "e6", "e7", "wrong", "liar", "deep", "chain"}
assert failing <= set(FAILED) <= failing | {"prop"}, FAILED
assert FAILED["e1"] == "SystemExit: 1" and FAILED["deep"] == FAILED["chain"] == "it is nested too deep" and FAILED["e5"] == "BadText"
assert all(len(reason) <= 200 for reason in FAILED.values()) and FAILED["e3"] == "MemoryError"
assert ok2["ok1"] is ok1 and ok1 == [1] and namespace is globals() and LOST == {}, (ok1, LOST)
assert growing[1] == 2 and type(growing[0]) is Grows and len(growing) >= 2 and Unhashable()
""",
    ),
    "patched modules": Case(
        """
import builtins, pickle, json, sys, importlib, copyreg, re, _pickle, marshal, gc, functools
class Broken:
    def __getattr__(self, name): raise RuntimeError("patched")
    def __call__(self, *a, **k): raise RuntimeError("patched")
broken = Broken()
pattern = re.compile("a")
dill = open = print = json = broken
builtins.open = builtins.print = pickle.Pickler = pickle.dumps = importlib.import_module = broken
sys.setrecursionlimit = sys.getrecursionlimit = _pickle.Pickler = marshal.dumps = gc.disable = gc.enable = broken
copyreg.dispatch_table[re.Pattern] = broken
sys.modules["dill"] = sys.modules["json"] = broken
def f(): return math.pi
import math
value = [1, 2, f]
""",
        """
import math as m
assert set(FAILED) == {"pattern"} and "patched" in FAILED["pattern"], FAILED
assert value[:2] == [1, 2] and value[2] is f and f() == m.pi and type(broken) is Broken and json is broken
import json as real
assert real.dumps(1) == "1" and "nothing" != open
""",
    ),
    "lost values": Case(
        """
import numpy as np
first = np.arange(3.0)
class Bad:
    def __init__(self): self.array = np.arange(4.0); self.own = [1]; self.text = "shared text"
    def __setstate__(self, state): raise RuntimeError("not today")
bad = Bad()
depends = {"own": bad.own}
array = np.arange(5.0)
also = np.ones(20_000)
text = bad.text
worse = [Bad(), np.ones(20_000)]
refers = [worse]
big = np.zeros(20_000)
ok = {"big": big, "first": first}
def f(): return ok
""",
        """
assert set(LOST) == {"bad", "depends", "worse", "refers"} and FAILED == {}, (LOST, FAILED)
assert LOST["bad"] == "RuntimeError: not today" and "could not be loaded" in LOST["depends"] and "could not be loaded" in LOST["refers"]
assert first[2] == 2 and array[4] == 4 and also.sum() == 20_000 and text == "shared text" and big.sum() == 0 and ok["big"] is big
assert ok["first"] is first and f() is ok
""",
        needs=("numpy",),
    ),
}
