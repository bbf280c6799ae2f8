"""Peak memory of a traced step, without compiling it.

Walks the traced operations in their order, as a compiler's buffer assignment does: each
result lives from where it is made to where it is last read. Two things of XLA's decide
what is a result at all, and are imitated: elementwise work is fused into what reads it,
and cheap elementwise work (casts, sums, products, selections) is done again for each
reader rather than kept.

It takes two seconds where a compiler takes minutes, and knows neither layouts nor
padding nor a scheduler that reorders. benchmarks/plan_accuracy.py states how far it is
from XLA's own assignment.
"""

import collections
import dataclasses
import math

from jax import extend

# Views: never a buffer of their own.
_VIEWS = {
    "broadcast_in_dim",
    "reshape",
    "squeeze",
    "expand_dims",
    "transpose",
    "iota",
    "slice",
    "copy",
    "stop_gradient",
    "optimization_barrier",
}
_CHEAP = {
    "convert_element_type",
    "add",
    "sub",
    "mul",
    "neg",
    "max",
    "min",
    "select_n",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "and",
    "or",
    "not",
    "sign",
    "integer_pow",
    "square",
    "abs",
    "clamp",
    "is_finite",
    "add_any",
    "round",
}
_COSTLY = {
    "exp",
    "log",
    "tanh",
    "rsqrt",
    "sqrt",
    "div",
    "pow",
    "cos",
    "sin",
    "logistic",
}
_COSTLY |= {"exp2", "log1p", "expm1", "erf"}
# Read their operands through a fusion.
_FUSES = _VIEWS | _CHEAP | _COSTLY
_FUSES |= {
    "reduce_sum",
    "reduce_max",
    "reduce_min",
    "reduce_and",
    "reduce_or",
    "argmax",
}
_FUSES |= {"concatenate", "pad", "gather", "dynamic_slice", "cumsum"}
_INLINED = {"jit", "pjit", "remat2", "checkpoint", "custom_jvp_call", "closed_call"}
_INLINED |= {"custom_vjp_call", "custom_vjp_call_jaxpr", "core_call", "remat"}


@dataclasses.dataclass
class _Operation:
    name: str
    reads: list
    makes: list
    inner: int = 0  # bytes that a loop's body needs by itself


def peak_bytes(jaxpr) -> int:
    """Most bytes alive at once beside the arguments and the results that replace them.

    Args:
        jaxpr: of a whole step, for example `jax.jit(f).trace(...).jaxpr.jaxpr`.
    """
    names = {}
    operations = _flat(jaxpr, names)
    outside = {id(names.get(v, v)) for v in (*jaxpr.invars, *jaxpr.constvars)}
    results = {id(names.get(v, v)) for v in jaxpr.outvars if _is_variable(v)}
    return _sweep(operations, outside, results)


def inner_jaxprs(equation):
    """The jaxprs among an equation's parameters: bodies of loops, branches, calls."""
    for value in equation.params.values():
        for found in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(found, extend.core.ClosedJaxpr):
                yield found.jaxpr
            elif isinstance(found, extend.core.Jaxpr):
                yield found


def _is_variable(atom):
    return not hasattr(atom, "val")


def _flat(jaxpr, names):
    """All operations in order, calls written out; `names` maps inner to outer variables."""
    operations = []

    def of(atom):
        while _is_variable(atom) and atom in names:
            atom = names[atom]
        return atom

    for equation in jaxpr.eqns:
        kind = equation.primitive.name
        inner = list(inner_jaxprs(equation))
        if kind in _INLINED and inner:
            body = inner[0]
            arguments = equation.invars[len(equation.invars) - len(body.invars) :]
            # A jaxpr that is called twice has the same variables: give them new ones.
            body = _renamed(body)
            names.update(zip(body.invars, map(of, arguments), strict=True))
            operations += _flat(body, names)
            for outer, result in zip(equation.outvars, body.outvars, strict=False):
                names[outer] = of(result)
            continue
        operations.append(
            _Operation(
                kind,
                [of(a) for a in equation.invars if _is_variable(of(a))],
                list(equation.outvars),
                max((peak_bytes(body) for body in inner), default=0),
            )
        )
    return operations


def _renamed(jaxpr):
    """A copy with variables of its own."""
    fresh = {}

    def new(atom):
        if not _is_variable(atom):
            return atom
        if atom not in fresh:
            fresh[atom] = type(atom)(atom.aval)
        return fresh[atom]

    return jaxpr.replace(
        invars=[new(v) for v in jaxpr.invars],
        constvars=[new(v) for v in jaxpr.constvars],
        outvars=[new(v) for v in jaxpr.outvars],
        eqns=[
            e.replace(
                invars=[new(v) for v in e.invars], outvars=[new(v) for v in e.outvars]
            )
            for e in jaxpr.eqns
        ],
    )


def _sweep(operations, outside, results):
    readers = collections.defaultdict(list)
    for operation in operations:
        for variable in operation.reads:
            readers[id(variable)].append(operation)
    held = {}  # variable -> ids of the buffers its value is read from
    sizes, made, last = {}, {}, {}
    for time, operation in enumerate(operations):
        sources = set()
        for variable in operation.reads:
            sources |= held.get(id(variable), {id(variable)})
        kept = _kept(operation, readers)
        for variable in operation.makes:
            key = id(variable)
            if kept:
                held[key] = {key}
                made[key] = time
                in_place = key in results and operation.name in _FUSES
                sizes[key] = 0 if in_place else _size(variable)
            else:
                held[key] = sources
        if kept:
            for key in sources:
                last[key] = time
    for key in results:
        for source in held.get(key, ()):
            last[source] = len(operations)
    return _highest(operations, sizes, made, last, outside)


def _kept(operation, readers):
    """Whether the operation's results get a buffer."""
    if operation.name in _VIEWS:
        return False
    users = [user for v in operation.makes for user in readers[id(v)]]
    through = all(user.name in _FUSES for user in users)
    if operation.name in _CHEAP:
        return not through
    if operation.name in _COSTLY:
        return not through or len(users) > 1
    return True


def _highest(operations, sizes, made, last, outside):
    begins, ends = collections.Counter(), collections.Counter()
    for key, time in made.items():
        if key not in outside:
            begins[time] += sizes[key]
            ends[max(time, last.get(key, time))] += sizes[key]
    alive = highest = 0
    for time, operation in enumerate(operations):
        alive += begins[time]
        highest = max(highest, alive + operation.inner)
        alive -= ends[time]
    return highest


def _size(variable):
    aval = variable.aval
    if not hasattr(aval, "shape"):
        return 0
    return math.prod(aval.shape) * aval.dtype.itemsize
