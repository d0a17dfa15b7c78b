"""Filters of rows, as Python writes comparisons: width >= 256 and split == 'train'."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from attri.runtime._util.wording import first_line
from attri.runtime.errors import UsageError

if TYPE_CHECKING:
    import pyarrow

_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_EXAMPLE = "write it as Python, with names of columns: width >= 256 and split in ['train', 'val']"


@dataclass(frozen=True)
class Where:
    """A filter: comparisons of columns with numbers, text, lists (`in`) and None (`is`), joined by and, or, not.

    Rows of which it cannot be said, because a value is missing, are not among those that count.

    Args:
        text: The expression.

    Raises:
        UsageError: It is none, or calls something.
    """

    text: str

    def __post_init__(self) -> None:
        try:
            self.columns  # noqa: B018  # parses it
            _expression(self._tree)
        except SyntaxError as error:
            raise UsageError(f"--where {self.text!r} cannot be read ({error.msg}): {_EXAMPLE}") from error

    @property
    def _tree(self) -> ast.expr:
        return ast.parse(self.text.strip(), mode="eval").body

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        names = [node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)]
        if not names:
            raise UsageError(f"--where {self.text!r} names no column: {_EXAMPLE}")
        return tuple(dict.fromkeys(names))

    def rows_of(self, table: pyarrow.Table) -> Sequence[int]:
        """Numbers of the rows that count.

        Raises:
            UsageError: The columns have no values of such a kind.
        """
        import pyarrow as pa

        numbered = table.select(self.columns).append_column(" row", pa.array(range(table.num_rows)))
        try:
            numbers: list[int] = numbered.filter(_expression(self._tree))[" row"].to_pylist()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
            raise UsageError(f"--where {self.text!r} does not fit the columns: {first_line(error)}") from error
        return numbers


def _expression(node: ast.expr) -> Any:
    """The pyarrow expression of a tree. Raises UsageError."""
    import pyarrow.compute as pc

    if isinstance(node, ast.BoolOp):
        join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        found = _expression(node.values[0])
        for value in node.values[1:]:
            found = join(found, _expression(value))
        return found
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_expression(node.operand)
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        found = _compared(sides[0], node.ops[0], sides[1])
        for left, how, right in zip(sides[1:], node.ops[1:], sides[2:], strict=False):
            found = found & _compared(left, how, right)
        return found
    if isinstance(node, ast.Name):  # a column of true and false
        return pc.field(node.id)
    raise UsageError(f"--where: {ast.unparse(node)!r} is no comparison: {_EXAMPLE}")


def _compared(left: ast.expr, how: ast.cmpop, right: ast.expr) -> Any:
    first = _operand(left)
    if isinstance(how, (ast.Is, ast.IsNot)):
        if not isinstance(right, ast.Constant) or right.value is not None:
            raise UsageError(f"--where: {ast.unparse(right)!r} behind `is`: only None can stand there")
        return first.is_null() if isinstance(how, ast.Is) else first.is_valid()
    if isinstance(how, (ast.In, ast.NotIn)):
        found = first.isin(_value(right))
        return found if isinstance(how, ast.In) else first.is_valid() & ~found
    return _COMPARED[type(how)](first, _operand(right))


def _operand(node: ast.expr) -> Any:
    """A column or a value, as an expression. Raises UsageError."""
    import pyarrow.compute as pc

    return pc.field(node.id) if isinstance(node, ast.Name) else pc.scalar(_value(node))


def _value(node: ast.expr) -> Any:
    """Raises UsageError."""
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise UsageError(f"--where: {ast.unparse(node)!r} is no column or value: {_EXAMPLE}") from error
