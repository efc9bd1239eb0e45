"""PTX as text, taken apart: a kernel's parameters, declarations and instructions."""

import re
from dataclasses import dataclass, field

from tests.ptx.faults import Unsupported

SIZES = {
    **{letter + str(8 * size): size for letter in "bus" for size in (1, 2, 4, 8)},
    **{"f16": 2, "bf16": 2, "f32": 4, "f64": 8, "f16x2": 4, "bf16x2": 4, "f32x2": 8},
    "pred": 1,
}
_VARIABLE = re.compile(r"\.(shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d*)\])?\s*;")
_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)([^{;]*)\{")
_PARAMETER = re.compile(
    r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.(?!align)[a-z]+\s+)*(?:\.align\s+\d+\s+)?([\w$]+)(\[)?"
)
_LABEL = re.compile(r"([\w$]+):(?!:)")
_TABLE = re.compile(r"[\w$]+:\s*\.branchtargets")
_SPACE = re.compile(r"\s*")
_NAME = re.compile(r"(?<![\w%$.])[%$A-Za-z_][\w$.]*")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: `@!%p1 add.f32 %f3, %f1, %f2` has the guard %p1, negated, and three operands."""

    opcode: str
    operands: tuple
    guard: str | None
    negated: bool
    text: str

    @property
    def parts(self):
        return self.opcode.split(".")


@dataclass
class Kernel:
    """What one entry of a module says."""

    name: str
    parameters: list  # of (type, name)
    limits: str  # directives such as .maxntid
    registers: dict = field(default_factory=dict)  # name -> type
    instructions: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # name -> number of the instruction that follows
    tables: dict = field(default_factory=dict)  # name of a .branchtargets -> labels
    variables: dict = field(default_factory=dict)  # name -> (space, offset)
    shared_bytes: int = 0  # before any dynamic shared memory
    local_bytes: int = 0


def parse(text, entry=None):
    """The module's kernel of this name, or its first."""
    text = re.sub(r"/\*.*?\*/", "", re.sub(r"//[^\n]*", "", text), flags=re.DOTALL)
    text = re.sub(r"^\s*\.(loc|file|section)\b[^\n]*$", "", text, flags=re.MULTILINE)
    heads = [head for head in _ENTRY.finditer(text) if entry in (None, head[1])]
    if not heads:
        raise ValueError(f"no kernel {entry or ''} in the text")
    head = heads[0]
    kernel = Kernel(head[1], [], head[3])
    for of_type, name, array in _PARAMETER.findall(head[2]):
        if array:
            raise Unsupported(f"parameter {name} is an array of bytes")
        kernel.parameters.append((of_type, name))
    body = _body(text, head.end())
    _place_variables(kernel, text[: head.start()] + body)
    _Statements(kernel).read(body)
    return kernel


def _body(text, start):
    depth = 1
    for brace in re.compile(r"[{}]").finditer(text, start):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return text[start : brace.start()]
    raise ValueError("a brace is not closed")


def _place_variables(kernel, text):
    """Shared and local variables one after the other; all shared ones without a size after the others."""
    sizes = {"shared": 0, "local": 0}
    dynamic = []
    for space, align, of_type, name, count in _VARIABLE.findall(text):
        if count == "" and f"{name}[" in text:
            dynamic.append(name)
            continue
        size = SIZES[of_type]
        align = int(align or size)
        offset = -(-sizes[space] // align) * align
        kernel.variables[name] = space, offset
        sizes[space] = offset + size * int(count or 1)
    kernel.shared_bytes = -(-sizes["shared"] // 16) * 16
    kernel.local_bytes = -(-sizes["local"] // 16) * 16
    kernel.variables |= {name: ("shared", kernel.shared_bytes) for name in dynamic}


class _Statements:
    """Reads a body; names declared in an inner block (inline assembly) get a name of their own."""

    def __init__(self, kernel):
        self.kernel, self.scopes, self.count = kernel, [{}], 0

    def read(self, body):
        place = _SPACE.match(body).end()
        while place < len(body):
            label = _LABEL.match(body, place)
            if body[place] == "{":
                self._open(body, place + 1)
                end = place + 1
            elif body[place] == "}":
                self.scopes.pop()
                end = place + 1
            elif label and not _TABLE.match(body, place):
                self.kernel.labels[self._resolve(label[1])] = len(self.kernel.instructions)
                end = label.end()
            else:
                end = body.index(";", place) + 1
                self._statement(" ".join(body[place : end - 1].split()))
            place = _SPACE.match(body, end).end()

    def _open(self, body, start):
        """An inner block: its labels may be used before they come, so all are renamed at once."""
        self.count += 1
        labels = re.findall(r"(?:^|[\s;{}])([\w$]+):(?!:)", _body(body, start))
        self.scopes.append({label: f"{label}#{self.count}" for label in labels})

    def _resolve(self, name):
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), name)

    def _statement(self, statement):
        if statement.startswith(".reg"):
            self._declare(statement)
        elif ".branchtargets" in statement:
            name, targets = statement.split(":", 1)
            self.kernel.tables[name] = re.findall(r"[\w$]+", targets.split(".branchtargets")[1])
        elif not statement.startswith("."):
            self._instruction(statement)

    def _declare(self, statement):
        _, of_type, names = statement.split(None, 2)
        for name in names.replace(" ", "").split(","):
            prefix, _, count = name.rstrip(">").partition("<")
            for declared in [f"{prefix}{i}" for i in range(int(count))] if count else [prefix]:
                if len(self.scopes) > 1:
                    self.scopes[-1][declared] = f"{declared}#{self.count}"
                self.kernel.registers[self._resolve(declared)] = of_type[1:]

    def _instruction(self, statement):
        guard = re.match(r"@(!?)\s*([%\w$]+)\s+", statement)
        opcode, _, operands = statement[guard.end() if guard else 0 :].partition(" ")
        if len(self.scopes) > 1:
            operands = _NAME.sub(lambda name: self._resolve(name[0]), operands)
        self.kernel.instructions.append(
            Instruction(
                opcode,
                tuple(split(operands)),
                self._resolve(guard[2]) if guard else None,
                bool(guard and guard[1]),
                statement,
            )
        )


def split(operands):
    """Operands between commas, not those within braces, brackets or parentheses."""
    parts = re.findall(r"(?:[^,{}()\[\]]|\{[^}]*\}|\([^)]*\)|\[[^\]]*\])+", operands)
    return [part.strip() for part in parts if part.strip()]
