"""The package as a whole: light to import, layered, with a public surface that is documented."""

import ast
import graphlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import jaxnn as jn

ROOT = Path(jn.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
ids = [str(path.relative_to(ROOT)) for path in MODULES]
HEAVY = ("matplotlib", "xarray", "zarr", "sklearn", "flax", "rich", "mlxtend", "tyro")
HEAVY += ("matfree", "diffrax", "orbax")

# folder -> what it may know beside itself
LAYERS = {
    "types": set(),
    "theory": {"types"},
    "nets": {"types"},
    "data": {"types"},
    "probes": {"types"},
    "training": {"types", "probes", "data"},
    "sweep": {"types"},
    "diagnosis": {"types", "probes", "training", "sweep"},
    "report": {"types"},
    "testing": {"types", "probes"},
}
INTERNAL = {"use_every_core"}  # called while jaxnn is imported, no part of its surface
HOMES = {  # imported in these folders only
    "flax": {"nets"},
    "matplotlib": {"report"},
    "matfree": {"probes"},
    "diffrax": {"training"},
    "orbax": {"training"},
}
MAX_LINES = 400


def module_name(path):
    """`jaxnn.sweep.loop` of `jaxnn/sweep/loop.py`, `jaxnn.sweep` of its `__init__.py`."""
    parts = ("jaxnn", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def is_type_checking(node):
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported(tree, *, runtime_only=False):
    """Modules imported anywhere in a module; of `from a import b`, `a.b` where that is one."""
    found, nodes = set(), [tree]
    while nodes:
        node = nodes.pop()
        if runtime_only and is_type_checking(node):
            nodes.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "write absolute imports"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in NAMES else node.module)
        nodes.extend(ast.iter_child_nodes(node))
    return found


TREES = {path: ast.parse(path.read_text()) for path in MODULES}
ours = [path for path in MODULES if path.parent != ROOT or path.stem in LAYERS]


def layer(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def test_import_stays_light():
    code = f"import sys, jaxnn; print([name for name in {HEAVY!r} if name in sys.modules])"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", ours, ids=[str(path.relative_to(ROOT)) for path in ours])
def test_module_imports_only_from_its_layers(path):
    names = {name for name in imported(TREES[path]) if name.split(".")[0] == "jaxnn"}
    assert "jaxnn" not in names, "import from the module itself, not from the package"
    allowed = LAYERS[layer(path)] | {layer(path)}
    assert {name.split(".")[1] for name in names} <= allowed


@pytest.mark.parametrize("package", HOMES)
def test_package_is_imported_in_its_folder_only(package):
    users = {
        layer(path)
        for path, tree in TREES.items()
        if package in {name.split(".")[0] for name in imported(tree)}
    }
    assert users <= HOMES[package]


def test_modules_import_without_circles():
    graph = {
        module_name(path): imported(tree, runtime_only=True) & NAMES for path, tree in TREES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_all_is_the_sorted_public_names():
    tree = TREES[ROOT / "__init__.py"]
    bound = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    public = sorted(name for name in bound - INTERNAL if not name.startswith("_"))
    assert list(jn.__all__) == public
    assert all(hasattr(jn, name) for name in jn.__all__)


def folders():
    return sorted({name for name in NAMES if name.count(".") == 1} - {"jaxnn.types"})


@pytest.mark.parametrize("name", folders())
def test_folder_exports_what_it_names(name):
    __import__(name)
    module = sys.modules[name]
    exported = getattr(module, "__all__", [])
    assert len(set(exported)) == len(exported)
    for each in exported:
        value = getattr(module, each)
        if inspect.isroutine(value) or inspect.isclass(value):
            assert inspect.getdoc(value), f"{name}.{each} has no docstring"


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_public_function_has_a_docstring(path):
    undocumented = [
        node.name
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node)
    ]
    undocumented += [
        f"{getattr(parent, 'name', '')}.{node.name}"
        for parent in [TREES[path], *(n for n in TREES[path].body if isinstance(n, ast.ClassDef))]
        for node in parent.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
        if not getattr(parent, "name", "").startswith("_")
        if not ast.get_docstring(node)
    ]
    assert undocumented == []


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_module_fits_in_a_readers_head(path):
    assert len(path.read_text().splitlines()) < MAX_LINES
    assert ast.get_docstring(TREES[path])
