"""The grader's checks against simple cheating; they are no sandbox. Used by `grading_child.py`.

A student's file runs in the same process as the tests, so it can do anything that they can. These
checks make the known tricks cost more than writing the component, or report them:

    noted       the source uses what no component needs (`exec`, frames, `/proc`, ...), replaces a
                library's function, or equals the reference except for names; the instructor gets
                the line numbers
    refused     reading the solution, writing outside the temporary folder, starting programs,
                stopping other processes
    not counted tests after which a check that must fail passes (`grading_canaries.py`), a function
                of torch, numpy or pytest has been replaced, or a class in the file defines what
                "equal" means
"""

import ast
import os
import sys
import types

# These give access to the tests or the reference; no component needs them.
FUNCTIONS = frozenset("exec eval compile globals vars __import__".split())
ATTRIBUTES = frozenset(
    "_getframe _current_frames settrace setprofile addaudithook sys.modules meta_path path_hooks "
    "path_importer_cache __globals__ __code__ __closure__ __dict__ __subclasses__ __loader__ "
    "__spec__ __traceback__ __builtins__ tb_frame tb_next f_back f_locals f_globals gi_frame "
    "from_file popen os.system dir_fd".split()
)
IMPORTS = frozenset(
    "builtins importlib runpy imp pkgutil ctypes cffi gc inspect subprocess multiprocessing "
    "marshal dis pytest _pytest pluggy unittest conftest".split()
)
# Special methods that let a value decide what a test sees.
COMPARING = frozenset(
    "__eq__ __ne__ __lt__ __le__ __gt__ __ge__ __bool__ __contains__ __float__ __int__ __index__ "
    "__abs__ __sub__ __rsub__ __array__ __array_ufunc__ __array_function__ __torch_function__ "
    "__torch_dispatch__ __getattribute__ __instancecheck__ __subclasscheck__".split()
)
# Parts of paths, of names for getattr, or of code for exec.
SUSPICIOUS_TEXT = ("/proc", "ppad/", "__", "_getframe", "grading_", "test_")
# The functions that tests compare with: all those of these modules; of torch, its Tensor and numpy
# only COMPARING and COMPARISONS, because libraries replace others themselves.
WATCHED = (
    "builtins math operator torch.testing torch.testing._comparison numpy.testing "
    "numpy.testing._private.utils pytest _pytest.python_api _pytest.raises _pytest.outcomes "
    "_pytest.assertion _pytest.assertion.rewrite _pytest.assertion.util _pytest.python "
    "_pytest.runner _pytest.reports _pytest.skipping _pytest.unraisableexception pluggy._callers "
    "pluggy._manager pluggy._hooks __main__ grading_checks".split()
)
COMPARISONS = frozenset(
    "equal allclose isclose array_equal gradcheck eq ne all any item tolist abs max min sum".split()
)
SMALL = 400  # characters (ours): shorter functions are equal by chance


# ------------------------------------------------------------------ reading the source


def notes_on(source: bytes, reference: str) -> list[str]:
    """Notes for the instructor on a student's file; empty if it is not valid Python."""
    try:
        tree = ast.parse(source)
        known = ast.parse(reference)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    allowed = {name for _, name in _accesses(known)}  # what the reference itself uses
    found = {}
    for line, name in _accesses(tree):
        if name not in allowed:
            found.setdefault(name, line)
    notes = [f"line {line} uses {name}" for name, line in found.items()]
    notes += [f"line {line} replaces {name}" for line, name in _replacements(tree)]
    notes = [f"for the instructor: {note}: look at it" for note in notes[:20]]
    mine = _normal_forms(tree)
    theirs = _normal_forms(known)
    same = len(mine & theirs)
    if same and 2 * same >= len(theirs):
        notes.append(
            f"for the instructor: {same} of {len(theirs)} functions equal the reference but for "
            "names and texts"
        )
    return notes


def _accesses(tree):
    """Yield (line, name) wherever the source uses a listed name or suspicious text."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    of_the_starter = {f"not written yet: {name}" for name in functions}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if IMPORTS & {*parts} or {name, *parts} & ATTRIBUTES or "test_" in name:
                yield node.lineno, name
        if isinstance(node, ast.Name) and node.id in FUNCTIONS | ATTRIBUTES | COMPARING:
            yield node.lineno, node.id
        if isinstance(node, ast.Attribute):
            name = f"{_root(node)}.{node.attr}"
            if {name, node.attr} & ATTRIBUTES or node.attr in COMPARING | IMPORTS:
                yield node.lineno, name
        if isinstance(node, ast.keyword) and node.arg in ATTRIBUTES:
            yield node.value.lineno, node.arg
        if isinstance(node, ast.FunctionDef) and node.name in COMPARING:
            yield node.lineno, node.name
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes)):
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if id(node) not in docstrings and text not in of_the_starter | {"__main__"}:
                words = [word for word in SUSPICIOUS_TEXT if word in text]
                yield from ((node.lineno, f'the text "{word}"') for word in words)


def _replacements(tree):
    """Yield (line, name) of assignments into imports, by `torch.equal = ...` or setattr."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imported |= {(name.asname or name.name).partition(".")[0] for name in node.names}
    for node in ast.walk(tree):
        targets = []
        if isinstance(node, (ast.Assign, ast.Delete)):
            targets = node.targets
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign, ast.For)):
            targets = [node.target]
        elif isinstance(node, ast.Call) and node.args:
            function = ast.unparse(node.func)
            if function in ("setattr", "delattr") or function.endswith("__setattr__"):
                targets = [ast.Attribute(node.args[0], "attribute", ast.Store())]
        for target in targets:
            for part in ast.walk(target):
                if isinstance(part, ast.Attribute) and _root(part) in imported:
                    yield node.lineno, ast.unparse(part)


def _root(node):
    """The first name in an expression like a.b[0].c."""
    while isinstance(node, (ast.Attribute, ast.Subscript)):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _normal_forms(tree) -> set[str]:
    """The long functions of a file, without names, strings and annotations."""
    forms = set()
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            form = ast.dump(_Nameless().visit(ast.parse(ast.unparse(function))))
            if len(form) > SMALL:
                forms.add(form)
    return forms


class _Nameless(ast.NodeTransformer):
    """Replaces names by numbers, in order of first use; drops strings and annotations."""

    def __init__(self):
        self.numbers = {}

    def number(self, name):
        return name and f"n{self.numbers.setdefault(name, len(self.numbers))}"

    def visit(self, node):
        if isinstance(node, (ast.Expr, ast.Raise)) and not isinstance(
            getattr(node, "value", None), ast.Call
        ):
            return ast.Pass()  # docstrings and messages
        if isinstance(node, ast.AnnAssign) and node.value:
            node = ast.Assign([node.target], node.value)
        for field in ("name", "id", "attr", "arg", "asname"):
            if isinstance(getattr(node, field, None), str):
                setattr(node, field, self.number(getattr(node, field)))
        for field in ("annotation", "returns", "type_comment"):
            if hasattr(node, field):
                setattr(node, field, None)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
        return self.generic_visit(node)


# ------------------------------------------------------------------ the reference's helpers


def reference_helper(name: str, reference: str):
    """The function or class `name` of the reference, with only what it needs.

    So a student's code that gets it cannot reach the rest of the reference.
    """
    tree = ast.parse(reference)
    made_by = {}  # name -> the statement that defines it
    for node in tree.body:
        targets = getattr(node, "targets", [])
        for made in [getattr(node, "name", None)] + [getattr(one, "id", None) for one in targets]:
            made_by[made] = node
    needed = [name]
    for one in needed:  # the list grows during the loop
        names = [part.id for part in ast.walk(made_by[one]) if isinstance(part, ast.Name)]
        needed += [other for other in {*names} & made_by.keys() if other not in needed]
    statements = [made_by[one] for one in needed]
    body = [
        node
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom)) or node in statements
    ]
    module = types.ModuleType("reference")
    code = compile(ast.Module(body, []), "reference", "exec")
    exec(code, module.__dict__)
    return module.__dict__[name]


# ------------------------------------------------------------------ while the file runs


class Snapshot:
    """The functions that tests compare with, before the student's file was imported."""

    def __init__(self):
        self.before = {}  # (owner, name) -> (function, its code)
        for module in [sys.modules[name] for name in WATCHED if name in sys.modules]:
            self._keep(module, vars(module))
            for kind in list(vars(module).values()):
                if isinstance(kind, type) and kind.__module__ == module.__name__:
                    self._keep(kind, vars(kind))
        if "torch" in sys.modules:  # not imported here: a component may not need it
            torch = sys.modules["torch"]
            numpy = sys.modules["numpy"]
            for owner in (torch, torch.autograd, numpy, numpy.ndarray, *torch.Tensor.__mro__[:-1]):
                self._keep(owner, (COMPARING | COMPARISONS) & vars(owner).keys())

    def _keep(self, owner, names):
        for name in names:
            value = vars(owner)[name]
            if callable(value) or isinstance(value, (staticmethod, classmethod, property)):
                self.before[owner, name] = (value, getattr(value, "__code__", None))

    def replaced(self) -> str:
        """The name of a function that has been replaced, or ""."""
        for (owner, name), (value, code) in self.before.items():
            if vars(owner).get(name) is not value or getattr(value, "__code__", None) is not code:
                return f"{owner.__name__}.{name}"
        return ""


def comparing_class(path: str, module: str) -> str:
    """A student's class that defines what "equal" means, as "Class.__eq__"; "" if there is none.

    A class is the student's if it is of `module`, if the method's code is in the file `path`, or if
    the class hides its module and uses a ready-made function as the method. Methods that
    `dataclass` generated do not count.
    """
    kinds = [object]
    seen = set()
    while kinds:
        for kind in type.__subclasses__(kinds.pop()):
            if kind in seen:
                continue
            seen.add(kind)
            kinds.append(kind)
            for name in COMPARING & vars(kind).keys():
                method = vars(kind)[name]
                code = getattr(method, "__code__", None)
                file = code.co_filename if code else ""
                generated = file == "<string>" and "__dataclass_fields__" in vars(kind)
                of_module = kind.__module__ == module and not generated
                if file == path or of_module or _is_foreign(kind, method):
                    return f"{kind.__name__}.{name}"
    return ""


def _is_foreign(kind, method) -> bool:
    """Whether a class hides its module and the method is a type or another type's function."""
    found = sys.modules.get(kind.__module__)
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    written = hasattr(method, "__code__") or type(method).__name__ == "instancemethod"
    own = getattr(method, "__objclass__", None) is kind
    return found is not kind and callable(method) and not written and not own


CLOSED = ("ppad", "tests", "lesson_notebooks", ".git")  # folders that hold the solution
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = frozenset(
    "os.remove os.rename os.link os.symlink os.mkdir os.rmdir os.chmod os.chown os.truncate "
    "os.utime shutil.rmtree".split()
)
LOOKING = frozenset(
    "sys._getframe sys._current_frames gc.get_objects gc.get_referrers gc.get_referents "
    "object.__getattr__".split()
)
PROGRAMS = frozenset("subprocess.Popen os.system os.exec os.posix_spawn os.spawn".split())


STANDARD_LIBRARY = os.path.dirname(os.__file__)


def _by_a_package(frame) -> bool:
    """Whether an installed package made the call: matplotlib finds fonts with fc-list."""
    while frame is not None:
        file = frame.f_code.co_filename
        installed = "site-packages" in file or "dist-packages" in file
        if installed or not file.startswith((STANDARD_LIBRARY, "<frozen")):
            return installed
        frame = frame.f_back
    return False


def guard(place: str, root: str, file: str, note) -> None:
    """From now on, refuse to read the solution, write outside `place`, start a program, stop
    another process, or show `file`, the student's, frames of the grader.

    root: the repository. note: called with a sentence when something was refused.
    """
    asking = False  # whether the hook itself looks at a frame
    place = os.path.realpath(place)
    closed = [os.path.realpath(os.path.join(root, name)) for name in CLOSED]
    writable = (place, "/dev", os.path.realpath(os.devnull))
    own = (f"/proc/{os.getpid()}", "/proc/self")

    def inside(path, folders):
        return any(path == folder or path.startswith(folder + os.sep) for folder in folders)

    def refuse(what):
        note(f"for the instructor: the file tried to {what}, which was refused")
        raise PermissionError(f"the grader does not let a file {what}")

    def hook(event, arguments):
        nonlocal asking
        if event in LOOKING and not asking:
            asking = True
            caller = sys._getframe(1).f_code.co_filename
            asking = False
            if caller == file:
                refuse("look at the grader's own variables")
        kills = event in ("os.kill", "os.killpg") and arguments[0] not in (0, os.getpid())
        if (kills or event in PROGRAMS) and not asking:
            asking = True
            allowed = _by_a_package(sys._getframe(1))
            asking = False
            if not allowed:
                refuse("stop another process" if kills else "start a program")
        writes = event in CHANGES
        if event == "open":
            path, mode, flags = arguments
            writes = bool((flags or 0) & WRITING) or any(c in (mode or "") for c in "wax+")
        elif not writes and event not in ("os.listdir", "os.scandir"):
            return
        for path in arguments[:2] if writes and event != "open" else arguments[:1]:
            if not isinstance(path, (str, bytes, os.PathLike)):
                continue  # a file descriptor
            try:
                real = os.path.realpath(os.fsdecode(path))
            except OSError:  # the working folder has been deleted
                continue
            if inside(real, closed):
                refuse("read the solution")
            if real.startswith("/proc/") and real[6:7].isdigit() and not inside(real, own):
                refuse("look into another process")
            if writes and not inside(real, writable):
                refuse("write outside its folder")

    sys.addaudithook(hook)
