"""The reference part of docs/python.md and docs/embedded.md: signatures and docstrings, as in the source.

Everything is read from the syntax tree, so a signature looks as it was written; only a default that is a
constant's name or a sum is shown as its value. A docstring's `name: meaning` becomes an item of a list where
`name` is an argument or a field of what it describes.
"""

import ast
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from rlog.client.settings import ClientSettings
from rlog.errors import RlogError

ROOT = Path(__file__).parents[1]
BELOW = "<!-- Below this line: made by `make docs` from the docstrings of {}: change it there. -->"
CODE_COLUMNS = 100
PROSE_COLUMNS = 116
# Public to the package alone: how its parts talk to each other.
INNER = {
    "abandon", "admitted", "check_readable", "check_takes", "decode_more", "end", "is_open", "is_seen",
    "leaders_changed", "raise_unseen", "refused", "segments_from", "size_of", "take_decoded", "unread",
}  # fmt: skip
PROTOCOLS = {"__aenter__": "async with", "__enter__": "with", "__await__": "await"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.ClassDef | Function


def source_of(name: str, module: str) -> Path:
    """The file that says what a name of that module is; a stub for what is compiled."""
    if module == "rlog._core":
        return ROOT / "rlog/_core.pyi"
    return Path(str(sys.modules[module].__file__))


def definition(package: str, name: str) -> tuple[ast.stmt, ast.stmt | None, str]:
    """The statement that defines a public name, the one after it, and the module that it stands in."""
    value = getattr(import_module(package), name)
    homes = [getattr(value, "__module__", "")]
    homes += [
        each for each in sorted(sys.modules) if each.startswith("rlog") and name in vars(sys.modules[each])
    ]
    for module in homes:
        if module.startswith("rlog"):
            body = ast.parse(source_of(name, module).read_text()).body
            for item, following in zip(body, [*body[1:], None], strict=True):
                if name in _names(item):
                    return item, following, module
    raise LookupError(f"where is {package}.{name} defined?")


def _names(item: ast.stmt) -> list[str]:
    if isinstance(item, Documented):
        return [item.name]
    targets = item.targets if isinstance(item, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


# --- signatures ---


def signature(function: Function, module: str) -> str:
    """One line, or one argument a line where that is too long."""
    arguments = list(_arguments(function.args, module))
    arguments = arguments[1:] if arguments[:1] == ["self"] else arguments
    start = "async " if isinstance(function, ast.AsyncFunctionDef) else ""
    result = f" -> {_plain(function.returns)}" if function.returns is not None else ""
    line = f"{start}{function.name}({', '.join(arguments)}){result}"
    if len(line) > CODE_COLUMNS:
        inside = "".join(f"    {argument},\n" for argument in arguments)
        line = f"{start}{function.name}(\n{inside}){result}"
    return line.replace("'", '"')


def _arguments(arguments: ast.arguments, module: str) -> Iterator[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    bare: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    for argument, default in zip(positional, [*bare, *arguments.defaults], strict=True):
        yield _argument(argument, default, module)
    if arguments.vararg is not None:
        yield f"*{_argument(arguments.vararg, None, module)}"
    elif arguments.kwonlyargs:
        yield "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _argument(argument, default, module)


def _argument(argument: ast.arg, default: ast.expr | None, module: str) -> str:
    shown = f"{argument.arg}: {_plain(argument.annotation)}" if argument.annotation else argument.arg
    return shown if default is None else f"{shown} = {_value(default, module)}"


def _plain(annotation: ast.expr | None) -> str:
    """A type as written, without the quotes of a forward reference."""
    text = ast.unparse(annotation) if annotation is not None else ""
    return text.strip("'") if text.startswith("'") else text


def _value(default: ast.expr, module: str) -> str:
    if isinstance(default, ast.Call):  # field(default_factory=...)
        return "..."
    value = eval(ast.unparse(default), dict(vars(sys.modules[module])))
    return f"{value:_}" if type(value) is int and value >= 10_000 else repr(value)


# --- docstrings ---


def prose(docstring: str | None, names: Sequence[str]) -> Iterator[str]:
    """The docstring as Markdown; `names`: of arguments or fields, whose meanings become items."""
    for paragraph in textwrap.dedent(docstring or "").split("\n\n"):
        if paragraph.startswith("    "):
            yield f"```py\n{textwrap.dedent(paragraph).rstrip()}\n```"
            continue
        text = " ".join(paragraph.split())
        text, raises = _without_raises(text)
        known = "|".join(sorted(names, key=len, reverse=True)) or "(?!)"
        start, *found = re.split(rf"(?:^|(?<=[.;:)] ))((?:{known})(?:, (?:{known}))*): ", text)
        if start.strip():
            yield _wrapped(start)
        yield from _items(found)
        if raises:
            yield _wrapped(raises)


def _without_raises(text: str) -> tuple[str, str]:
    before, found, after = text.partition("Raises ")
    return (before.rstrip(), found + after) if found and (not before or before.endswith(". ")) else (text, "")


def _items(found: list[str]) -> Iterator[str]:
    """`found`: names and their meaning, in turns."""
    items = []
    for names, meaning in zip(found[::2], found[1::2], strict=True):
        shown = ", ".join(f"`{name}`" for name in names.split(", "))
        items.append(_wrapped(f"{shown}: {meaning}", "- ", "  "))
    if items:
        yield "\n".join(items)


def _wrapped(text: str, first: str = "", later: str = "") -> str:
    return textwrap.fill(
        text.strip(),
        PROSE_COLUMNS,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )


# --- what there is ---


def described(package: str, name: str) -> Iterator[str]:
    """One public name as Markdown blocks, a heading first."""
    item, following, module = definition(package, name)
    if isinstance(item, ast.ClassDef):
        yield from _class(item, module)
    elif isinstance(item, Function):
        yield f"### {item.name}"
        yield f"```py\n{signature(item, module)}\n```"
        yield from prose(ast.get_docstring(item), _argument_names(item))
        if name == "connect" and package == "rlog.client":
            yield from prose(ClientSettings.__doc__, _argument_names(item))
    else:
        yield f"### {name}"
        yield f"```py\n{ast.unparse(item)}\n```".replace("'", '"')
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            yield from prose(str(following.value.value), ())


def _class(item: ast.ClassDef, module: str) -> Iterator[str]:
    yield f"### {item.name}"
    fields = {name: line for each in item.body for name, line in _field(each, module)}
    if fields:
        yield "```py\n" + "\n".join(fields.values()).replace("'", '"') + "\n```"
    yield from prose(ast.get_docstring(item), [*fields, *_attributes(item)])
    for member in item.body:
        if isinstance(member, Function) and member.name not in INNER | fields.keys():
            if not member.name.startswith("_"):
                yield f"#### {item.name}.{member.name}"
                yield from _member(member, module)
            elif member.name in PROTOCOLS and ast.get_docstring(member):
                yield f"#### {PROTOCOLS[member.name]} {item.name}"
                yield from prose(ast.get_docstring(member), ())


def _field(each: ast.stmt, module: str) -> Iterator[tuple[str, str]]:
    """Of a dataclass, or a property that its name and type explain: its name, and how it is declared."""
    if isinstance(each, ast.AnnAssign) and not ast.unparse(each.target).startswith("_"):
        default = f" = {_value(each.value, module)}" if each.value is not None else ""
        name = ast.unparse(each.target)
        yield name, f"{name}: {_plain(each.annotation)}{default}"
    elif isinstance(each, Function) and _is_bare_property(each):
        yield each.name, f"{each.name}: {_plain(each.returns)}"


def _attributes(item: ast.ClassDef) -> list[str]:
    """What its methods set on self for everybody."""
    return [
        each.attr
        for each in ast.walk(item)
        if isinstance(each, ast.Attribute)
        and isinstance(each.ctx, ast.Store)
        and not each.attr.startswith("_")
    ]


def _is_bare_property(member: Function) -> bool:
    return _is_property(member) and member.name not in INNER and ast.get_docstring(member) is None


def _is_property(member: Function) -> bool:
    return any(ast.unparse(each) == "property" for each in member.decorator_list)


def _member(member: Function, module: str) -> Iterator[str]:
    if _is_property(member):
        yield f"```py\n{member.name}: {_plain(member.returns)}\n```"
    else:
        yield f"```py\n{signature(member, module)}\n```"
    yield from prose(ast.get_docstring(member), _argument_names(member))


def _argument_names(function: Function) -> list[str]:
    arguments = function.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def public(package: str) -> list[str]:
    """`__all__` without the errors, which docs/errors.md has: functions first, then classes, then types."""
    module = import_module(package)
    values = {name: getattr(module, name) for name in module.__all__}
    names = [
        name for name, each in values.items() if not (isinstance(each, type) and issubclass(each, RlogError))
    ]

    def rank(name: str) -> tuple[int, str]:
        if not isinstance(values[name], type) and callable(values[name]) and name.islower():
            return 0, name
        first = ("Cluster", "Producer", "Ack", "ListAck", "Consumer", "Log", "AsyncLog", "NewRecord")
        return (1, f"{first.index(name)}") if name in first else (2, name)

    return sorted(names, key=rank)


def reference(document: str, packages: dict[str, str]) -> str:
    """The document with its reference made anew below the line; `packages`: to the heading of its part."""
    guide = (ROOT / document).read_text().partition("<!-- Below this line")[0].rstrip()
    parts = [guide, BELOW.format(", ".join(f"`{package}`" for package in packages))]
    for package, heading in packages.items():
        parts.append(f"## {heading}")
        for name in public(package):
            parts += described(package, name)
    return "\n\n".join(parts) + "\n"


def python() -> str:
    return reference(
        "docs/python.md",
        {"rlog.client": "Reference: the async client", "rlog.sync": "Reference: the blocking client"},
    )


def embedded() -> str:
    return reference("docs/embedded.md", {"rlog.embedded": "Reference: the embedded log"})
